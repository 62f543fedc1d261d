-- A request asks to be let in: this one call decides over all limits or changes nothing. Behind limits_common.lua.
--
-- ARGV: the request's id, its process, its key's id, and 20 doubles: the tokens it reserves, until when somebody waits
-- for the answer; the day's previous, current and next start, and end; the month's; the limits of the tenant, then
-- those of the key, -1 where there is none, each in the order requests and tokens per minute, at once, tokens per day and
-- month.
--
-- Answers {'admitted' or 'refused', now, place of the limit that opens last or 0, its wait in ms, then what remains
-- and the reset in ms of each limit}, or {'unknown', now}, or {'periods', now} if now is in none of the periods, or
-- {'late', now} if whoever asked does not wait any more.
--
-- Every request waits for it. Most of its time goes into the calls and the tables it makes, so it makes few.

-- When a running request ends nobody knows.
local RUNNING_WAIT_MS = 1000
local MINUTE_MS = 60000
-- A bucket that nobody has touched for so long is empty: it drains within minutes.
local IDLE_US = 86400 * 1000000

local request, process, key = ARGV[1], ARGV[2], ARGV[3]
local n = {struct.unpack('<dddddddddddddddddddd', ARGV[4])}
local tokens, until_us = n[1], n[2]
local DAY, MONTH, LIMITS = 3, 7, 11

-- The start and the end of the period that holds now; nil if none of the known ones does.
local function period_of_now(at)
  if now_s < n[at] or now_s >= n[at + 3] then return nil end
  if now_s < n[at + 1] then return n[at], n[at + 1] end
  if now_s < n[at + 2] then return n[at + 1], n[at + 2] end
  return n[at + 2], n[at + 3]
end

if now > until_us then return {'late', now} end
local day, day_end = period_of_now(DAY)
local month, month_end = period_of_now(MONTH)
if not day or not month then return {'periods', now} end

local stored = redis.call('HMGET', standings, 'epoch', 't', key)
if not stored[1] then return {'unknown', now} end
local stands = {standing(stored[2]), standing(stored[3])}
local day_sums, month_sums = period_key('d', day), period_key('m', month)
local spent_day = redis.call('HMGET', day_sums, 't', key)
local spent_month = redis.call('HMGET', month_sums, 't', key)
local day_wait_ms = math.ceil(day_end * 1000 - now / 1000)
local month_wait_ms = math.ceil(month_end * 1000 - now / 1000)

-- How all limits stand once so many requests more are let in: what remains, below zero where a limit does not admit
-- it, and the reset. `levels` receives the buckets' levels by the place of their limit.
local function look(more, levels)
  local answer, at = {'admitted', now, 0, 0}, 4
  for place = 0, 9 do
    local limit = n[LIMITS + place]
    if limit >= 0 then
      local scope, kind = place < 5 and 1 or 2, place % 5
      local left, reset_ms, wait_ms
      if kind == 2 then
        left = limit - stands[scope][RUNNING] - more
        reset_ms, wait_ms = left < limit and RUNNING_WAIT_MS or 0, RUNNING_WAIT_MS
      elseif kind > 2 then
        local spent = (kind == 3 and spent_day or spent_month)[scope]
        left = limit - (spent or 0) - more * tokens
        reset_ms = kind == 3 and day_wait_ms or month_wait_ms
        wait_ms = reset_ms
      elseif limit == 0 then
        left, reset_ms, wait_ms = -1, MINUTE_MS, MINUTE_MS
      else
        local is_requests = kind == 0
        local level = level_now(stands[scope], is_requests and REQUESTS or TOKENS, limit)
        level = level + more * (is_requests and 1 or tokens) * UNIT
        levels[place] = level
        left = limit - math.ceil(level / UNIT)
        reset_ms, wait_ms = math.ceil(level / limit / 1000), math.ceil((level - limit * UNIT) / limit / 1000)
      end
      answer[at + 1], answer[at + 2] = math.max(0, left), reset_ms
      at = at + 2
      if left < 0 and (answer[3] == 0 or wait_ms > answer[4]) then
        answer[1], answer[3], answer[4] = 'refused', (at - 4) / 2, wait_ms
      end
    end
  end
  return answer
end

local levels = {}
local answer = look(1, levels)
if answer[3] ~= 0 then
  local before = look(0, {})
  before[1], before[3], before[4] = answer[1], answer[3], answer[4]
  return before
end

-- Whoever made no request since the day before takes no room.
local function forget_idle()
  local all = redis.call('HGETALL', standings)
  for i = 1, #all, 2 do
    if all[i] ~= 'epoch' then
      local stand = standing(all[i + 1])
      local touched = math.max(stand[REQUESTS + 1], stand[TOKENS + 1])
      if stand[RUNNING] == 0 and now - touched > IDLE_US then redis.call('HDEL', standings, all[i]) end
    end
  end
end

local function add(sums, known, ends)
  local tenant = (known[1] or 0) + tokens
  redis.call('HSET', sums, 't', tenant, key, (known[2] or 0) + tokens)
  if tenant ~= tokens then return end
  redis.call('EXPIREAT', sums, ends + KEEP_S)
  if sums == day_sums then forget_idle() end
end

add(day_sums, spent_day, day_end)
add(month_sums, spent_month, month_end)
for scope = 1, 2 do
  local stand, place = stands[scope], 5 * scope - 5
  if levels[place] then set_level(stand, REQUESTS, levels[place]) end
  if levels[place + 1] then set_level(stand, TOKENS, levels[place + 1]) end
  stand[RUNNING] = stand[RUNNING] + 1
end
redis.call('HSET', standings, 't', packed(stands[1]), key, packed(stands[2]))
redis.call('HSET', prefix .. ':open', request, cmsgpack.pack({
  process = process, key = key, at = now_s, tokens = tokens, day = day, day_end = day_end, month = month,
  month_end = month_end, tenant_tpm = math.max(0, n[LIMITS + 1]), key_tpm = math.max(0, n[LIMITS + 6]),
}))
return answer
