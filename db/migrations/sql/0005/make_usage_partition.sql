CREATE OR REPLACE FUNCTION make_usage_partition(month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
-- As the owner: whoever calls it need not be allowed to make tables.
DECLARE
    first date := date_trunc('month', month::timestamp)::date;
    child text := 'usage_records_' || to_char(first, 'YYYY_MM');
BEGIN
    IF (EXTRACT(year FROM month) BETWEEN 1970 AND 9999) IS NOT TRUE THEN
        RAISE EXCEPTION '% is no month of usage', month USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Held until the caller's rows are in: a month that is there now cannot be dropped before.
    LOCK TABLE ONLY usage_records IN ROW EXCLUSIVE MODE;
    IF to_regclass(child) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(7957411251215233652 /* nng_part */);
    -- Whoever held the lock may have made it. A query has a new snapshot; to_regclass would answer from a cache.
    PERFORM FROM pg_class AS c JOIN pg_class AS parent USING (relnamespace)
    WHERE parent.oid = 'usage_records'::regclass AND c.relname = child;
    IF FOUND THEN
        RETURN;
    END IF;
    -- Attaching lets readers and writers of the other months go on; PARTITION OF would stop them.
    EXECUTE format('CREATE TABLE %I (LIKE usage_records INCLUDING ALL)', child);
    EXECUTE format('ALTER TABLE usage_records ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        child, first, (first + interval '1 month')::date);
END $$
