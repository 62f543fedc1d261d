-- Limits of a tenant and its keys: what the scripts of this folder that begin with it share.
--
-- KEYS[1] is the tenant's prefix, ARGV[1] what to do. All keys begin with the prefix, whose hash tag keeps them
-- on one node:
--   :epoch              the counters below are complete; without it nothing is granted
--   :open               request id -> its reservation, until it is settled
--   :late               request id -> what it came to, of requests that were settled while there was no epoch
--   :ended              requests that ended before the counters were made, and are in them: not to be added again
--   :recounts           recount -> since when somebody is making the counters anew
--   :uncounted          scopes of which requests went by that had no limits: the counters lack them
--   :running            scope -> requests that run; a scope is `t` for the tenant, or the id of a key
--   :d:<start>, :m:<start>  scope -> tokens spent and reserved in the day, the month that began then
--   :r:<scope>, :w:<scope>  how full the bucket of requests, of tokens per minute is
--
-- A bucket is GCRA in its form as a meter: it fills by what is taken and drains evenly, a whole limit in a minute.
-- One request or token is UNIT, and a microsecond drains `limit`, so that every sum stays a whole number, exact
-- in a double up to limits of 150 million.

local UNIT = 60000000
local KEEP_S = 2 * 86400
local BUCKET_SLACK_MS = 300000
-- A recount takes seconds at most; what comes late is told within this time.
local RECOUNT_S = 120

local prefix = KEYS[1]
local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now = now_s * 1000000 + tonumber(time[2])

local function level_now(stored, limit)
  if not stored then return 0 end
  local level, at = struct.unpack('<dd', stored)
  return math.max(0, level - limit * math.max(0, now - at))
end

local function read_bucket(key, limit) return level_now(redis.call('GET', key), limit) end

local function write_bucket(key, limit, level)
  if level <= 0 then
    redis.call('DEL', key)
  else
    redis.call('SET', key, struct.pack('<dd', level, now), 'PX', math.ceil(level / limit / 1000) + BUCKET_SLACK_MS)
  end
end

local function period_key(period, start) return string.format('%s:%s:%.0f', prefix, period, start) end

local function spend(key, scope, tokens, ends)
  local spent = redis.call('HINCRBY', key, 't', tokens)
  redis.call('HINCRBY', key, scope, tokens)
  if spent == tokens then redis.call('EXPIREAT', key, ends + KEEP_S) end
end

local function add_spent(held, tokens)
  spend(period_key('d', held.day), held.key, tokens, held.day_end)
  spend(period_key('m', held.month), held.key, tokens, held.month_end)
end

local function add_to_bucket(scope, limit, tokens)
  if limit > 0 then
    local key = prefix .. ':w:' .. scope
    write_bucket(key, limit, read_bucket(key, limit) + tokens * UNIT)
  end
end

-- Add tokens, or take some back, wherever the reservation counts.
local function add_tokens(held, tokens)
  if tokens == 0 then return end
  add_spent(held, tokens)
  add_to_bucket('t', held.tenant_tpm, tokens)
  add_to_bucket(held.key, held.key_tpm, tokens)
end

local function has_epoch() return redis.call('EXISTS', prefix .. ':epoch') == 1 end

local function add_running(held)
  redis.call('HINCRBY', prefix .. ':running', 't', 1)
  redis.call('HINCRBY', prefix .. ':running', held.key, 1)
end

local function release(held)
  for _, scope in ipairs({'t', held.key}) do
    if redis.call('HINCRBY', prefix .. ':running', scope, -1) <= 0 then
      redis.call('HDEL', prefix .. ':running', scope)
    end
  end
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
  local packed = redis.call('HGET', prefix .. ':open', request)
  if not has_epoch() then
    note_late(request, packed and cmsgpack.unpack(packed) or {}, tonumber(tokens))
    return 1
  end
  if not packed then return 0 end
  redis.call('HDEL', prefix .. ':open', request)
  local held = cmsgpack.unpack(packed)
  if held.swept then
    add_tokens(held, tonumber(tokens))
  else
    release(held)
    add_tokens(held, tonumber(tokens) - held.tokens)
  end
  return 1
end
