CREATE FUNCTION drop_usage_partition(month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
-- As the owner: whoever calls it need not be allowed to drop tables. What is dropped is a month of usage that is
-- over and whose sums are final, never anything else.
DECLARE
    child regclass := to_regclass('usage_records_' || to_char(month, 'YYYY_MM'));
BEGIN
    IF NOT EXISTS (
        SELECT FROM usage_pruned_months AS p
        WHERE p.period = month AND p.period < date_trunc('month', now() AT TIME ZONE 'UTC')
    ) THEN
        RAISE EXCEPTION 'the month % is not over, or its sums are not final', month
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'usage_records'::regclass AND inhrelid = child) THEN
        EXECUTE format('DROP TABLE %s', child);
    END IF;
END $$
