CREATE FUNCTION notify_key_revoked() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    changed jsonb[];
    newest bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(to_jsonb(n)) INTO changed FROM new_rows AS n;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(to_jsonb(o)) INTO changed FROM old_rows AS o;
    ELSE
        -- Rows that stand in one image only, without the columns nobody caches (TG_ARGV).
        SELECT array_agg(d.image) INTO changed FROM (
            ((SELECT to_jsonb(o) - TG_ARGV AS image FROM old_rows AS o)
             EXCEPT (SELECT to_jsonb(n) - TG_ARGV FROM new_rows AS n))
            UNION
            ((SELECT to_jsonb(n) - TG_ARGV FROM new_rows AS n)
             EXCEPT (SELECT to_jsonb(o) - TG_ARGV FROM old_rows AS o))
        ) AS d;
    END IF;
    IF changed IS NULL THEN
        RETURN NULL;
    END IF;

    WITH subjects AS (
        SELECT DISTINCT
            CASE WHEN holder.key_id IS NULL THEN 'tenant' ELSE 'key' END AS scope,
            COALESCE(holder.key_id, holder.tenant_id)::uuid AS id
        FROM unnest(changed) AS c (image), LATERAL (
            SELECT
                CASE TG_TABLE_NAME WHEN 'api_keys' THEN image->>'id' ELSE image->>'key_id' END AS key_id,
                CASE TG_TABLE_NAME WHEN 'tenants' THEN image->>'id' ELSE image->>'tenant_id' END AS tenant_id
        ) AS holder
    ), noted AS (
        INSERT INTO revocations (seq, scope, id, at)
        SELECT (SELECT COALESCE(max(r.seq), 0) FROM revocations AS r) + row_number() OVER (ORDER BY scope, id),
            scope, id, clock_timestamp()
        FROM subjects
        RETURNING seq
    )
    SELECT max(seq) INTO newest FROM noted;
    PERFORM pg_notify('key_revoked', newest::text);
    RETURN NULL;
END $$
