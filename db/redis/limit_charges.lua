-- What requests are charged when they end, or without having asked. Behind limits_common.lua.

-- A recount takes seconds at most; what comes late is told within this time.
local RECOUNT_S = 120

local function standings_of(key)
  local stored = redis.call('HMGET', standings, 't', key)
  return standing(stored[1]), standing(stored[2])
end

local function write_standings(tenant, key, stand)
  redis.call('HSET', standings, 't', packed(tenant), key, packed(stand))
end

local function fill(stand, bucket, limit, amount)
  if limit > 0 then set_level(stand, bucket, level_now(stand, bucket, limit) + amount * UNIT) end
end

local function spend(key, scope, tokens, ends)
  local spent = redis.call('HINCRBY', key, 't', tokens)
  redis.call('HINCRBY', key, scope, tokens)
  if spent == tokens then redis.call('EXPIREAT', key, ends + KEEP_S) end
end

local function add_spent(held, tokens)
  spend(period_key('d', held.day), held.key, tokens, held.day_end)
  spend(period_key('m', held.month), held.key, tokens, held.month_end)
end

-- So many requests more run, and so many tokens more are taken, wherever the reservation counts.
local function change(held, requests, tokens)
  local tenant, key = standings_of(held.key)
  tenant[RUNNING] = math.max(0, tenant[RUNNING] + requests)
  key[RUNNING] = math.max(0, key[RUNNING] + requests)
  if tokens ~= 0 then
    fill(tenant, TOKENS, held.tenant_tpm, tokens)
    fill(key, TOKENS, held.key_tpm, tokens)
    add_spent(held, tokens)
  end
  write_standings(tenant, held.key, key)
end

-- What a request was charged while the counters are not complete: whoever makes them takes it into account.
local function note_late(request, held, tokens)
  held.tokens = tokens
  redis.call('HDEL', prefix .. ':open', request)
  redis.call('HSETNX', prefix .. ':late', request, cmsgpack.pack(held))
  redis.call('EXPIRE', prefix .. ':late', RECOUNT_S)
end

-- Answers 1, or 0 if the counters are complete and there is no such reservation: it was settled before, or Redis
-- lost its memory of it and nobody declared it.
local function settle(request, tokens)
  local packed_held = redis.call('HGET', prefix .. ':open', request)
  if not has_epoch() then
    note_late(request, packed_held and cmsgpack.unpack(packed_held) or {}, tonumber(tokens))
    return 1
  end
  if not packed_held then return 0 end
  redis.call('HDEL', prefix .. ':open', request)
  local held = cmsgpack.unpack(packed_held)
  if held.swept then
    change(held, 0, tonumber(tokens))
  else
    change(held, -1, tonumber(tokens) - held.tokens)
  end
  return 1
end
