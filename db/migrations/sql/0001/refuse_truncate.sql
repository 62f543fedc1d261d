CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of % would revoke keys unnoticed: use DELETE', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
