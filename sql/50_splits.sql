-- Splits: a product's feature rows with what is known of their labels, in time order.
-- Grain: one row per ts of $product. Reads: features and labels of all days.
-- Roles, purge, embargo and the threshold policy are domain/splits.py.
select
    features.*,
    labels.future_volatility_60s,
    labels.trailing_threshold
from features
inner join labels
    on features.product_id = labels.product_id and features.ts = labels.ts
where features.product_id = $product
order by features.ts
