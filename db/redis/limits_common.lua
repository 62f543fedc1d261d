-- Limits of a tenant and its keys: what the scripts of this folder that begin with it share.
--
-- KEYS[1] is the tenant's prefix. All keys begin with the prefix, whose hash tag keeps them
-- on one node:
--   :now                scope -> how full its buckets are and how many of its requests run, as `standing` reads it; a
--                       scope is `t` for the tenant, or the id of a key. `epoch` stands among them while all
--                       counters are complete; without it nothing is granted
--   :open               request id -> its reservation, until it is settled
--   :late               request id -> what it came to, of requests that were settled while there was no epoch
--   :ended              requests that ended before the counters were made, and are in them: not to be added again
--   :recounts           recount -> since when somebody is making the counters anew
--   :uncounted          scopes of which requests went by that had no limits: the counters lack them
--   :d:<start>, :m:<start>  scope -> tokens spent and reserved in the day, the month that began then
--
-- A bucket is GCRA in its form as a meter: it fills by what is taken and drains evenly, a whole limit in a minute.
-- One request or token is UNIT, and a microsecond drains `limit`, so that every sum stays a whole number, exact
-- in a double up to limits of 150 million.

local UNIT = 60000000
local KEEP_S = 2 * 86400

local prefix = KEYS[1]
local standings = prefix .. ':now'
local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now = now_s * 1000000 + tonumber(time[2])

-- A standing is five numbers: the level of the bucket of requests and when it was so, the same of the bucket of
-- tokens, and how many requests run. All of them are read and written with one call, as every request needs them.
local REQUESTS, TOKENS, RUNNING = 1, 3, 5

local function standing(stored)
  if not stored then return {0, now, 0, now, 0} end
  return {struct.unpack('<ddddd', stored)}
end

local function packed(stand) return struct.pack('<ddddd', unpack(stand, 1, 5)) end

local function level_now(stand, bucket, limit)
  return math.max(0, stand[bucket] - limit * math.max(0, now - stand[bucket + 1]))
end

local function set_level(stand, bucket, level) stand[bucket], stand[bucket + 1] = math.max(0, level), now end

local function period_key(period, start) return prefix .. ':' .. period .. ':' .. start end

local function has_epoch() return redis.call('HEXISTS', standings, 'epoch') == 1 end
