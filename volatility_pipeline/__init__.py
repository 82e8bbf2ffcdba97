"""Will this market be unusually volatile in the next 60 seconds? A pipeline that answers."""
