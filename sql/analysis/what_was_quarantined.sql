-- What could not be used, and what does it look like? One example line per segment and reason.
select
    segment,
    reason,
    count(*) as lines,
    min(line) as first_line,
    left(arg_min(raw::varchar, line), 100) as example
from quarantine
group by segment, reason
order by lines desc, segment asc, reason asc
