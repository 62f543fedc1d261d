CREATE FUNCTION mark_touched_hours() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Every statement leaves marks of its own, in its own transaction: no writer waits for another, and whoever sees a
-- mark sees the rows it speaks of, however late they were committed. Of a month that was dropped the sums are all
-- that is left; a mark would have them replaced by those of the few rows that came too late.
BEGIN
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO usage_touched_hours (hour)
        SELECT DISTINCT date_trunc('hour', n.started_at, 'UTC') FROM new_rows AS n
        WHERE n.period NOT IN (SELECT p.period FROM usage_pruned_months AS p);
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO usage_touched_hours (hour)
        SELECT DISTINCT date_trunc('hour', o.started_at, 'UTC') FROM old_rows AS o
        WHERE o.period NOT IN (SELECT p.period FROM usage_pruned_months AS p);
    END IF;
    RETURN NULL;
END $$
