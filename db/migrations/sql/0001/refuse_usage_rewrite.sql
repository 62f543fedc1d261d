CREATE FUNCTION refuse_usage_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'usage of request % is settled', OLD.request_id USING ERRCODE = 'restrict_violation';
END $$
