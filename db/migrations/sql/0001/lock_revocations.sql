CREATE FUNCTION lock_revocations() RETURNS trigger LANGUAGE plpgsql AS $$
-- Before the statement, hence before any of its row locks: writers queue up here in one order, so two of them
-- cannot wait for each other, and the order of seq is the order of commit.
BEGIN
    PERFORM pg_advisory_xact_lock(7957411251249051251 /* nng_revs */);
    RETURN NULL;
END $$
