-- Rows that are in labels or in features, but not in both.
-- Reads: labels and features of a day.
select
    coalesce(labels.product_id, features.product_id) as product_id,
    coalesce(labels.ts, features.ts) as ts,
    case when labels.ts is null then 'features' else 'labels' end as only_in
from labels
full join features on labels.product_id = features.product_id and labels.ts = features.ts
where labels.ts is null or features.ts is null
order by product_id, ts
