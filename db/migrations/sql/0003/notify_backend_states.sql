CREATE FUNCTION notify_backend_states() RETURNS trigger LANGUAGE plpgsql AS $$
-- Whoever listens reads the whole table, so there is nothing to say but that it changed.
BEGIN
    PERFORM pg_notify('backend_states', '');
    RETURN NULL;
END $$
