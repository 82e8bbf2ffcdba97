"""When things happen by themselves: cron strings, ages and pauses, each with its reason."""

from datetime import timedelta

# A month of data changes little in a day, and a challenger is tested once a week at most; Sunday's
# early hours are the quietest of the market.
RETRAIN_WEEKLY = "0 3 * * 0"
# For who wants fresh models every day; promotion is still weekly.
RETRAIN_DAILY = "30 3 * * *"

# Landed files are built within a minute; half a day without any run is a stopped pipeline.
RUN_AGE = timedelta(hours=12)
# What each run of landed data makes, from first to last.
FRESH_GROUPS = ("raw", "labels", "predictions")
# After a retraining for drift: new data has to come before another one can tell more.
RETRAIN_PAUSE = timedelta(days=7)
# What no partition's newest materialization comes from is nobody's any more after a month.
KEPT_RUNS = timedelta(days=30)
# A verdict waits for the day's end, an alert for a person: neither is in a hurry.
WATCH_SECONDS = 60
