CREATE FUNCTION keep_newest_revocation() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- The next seq is counted from the newest row: without it numbers would repeat, and caches would not notice.
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'a revocation cannot be changed' USING ERRCODE = 'restrict_violation';
    END IF;
    IF (SELECT max(seq) FROM old_rows) > (SELECT COALESCE(max(seq), 0) FROM revocations) THEN
        RAISE EXCEPTION 'the newest revocation must stay' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
