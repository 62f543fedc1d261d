-- Limits of a tenant and its keys: one call decides over all of them or changes nothing.
--
-- KEYS[1] is the tenant's prefix, ARGV[1] what to do. All keys begin with the prefix, whose hash tag keeps them
-- on one node:
--   :epoch              the counters below are complete; without it nothing is granted
--   :open               request id -> its reservation, until it is settled
--   :running            scope -> requests that run; a scope is `t` for the tenant, or the id of a key
--   :d:<start>, :m:<start>  scope -> tokens spent and reserved in the day, the month that began then
--   :r:<scope>, :w:<scope>  how full the bucket of requests, of tokens per minute is
--
-- A bucket is GCRA in its form as a meter: it fills by what is taken and drains evenly, a whole limit in a minute.
-- One request or token is UNIT, and a microsecond drains `limit`, so that every sum stays a whole number, exact
-- in a double up to limits of 150 million.

local UNIT = 60000000
-- When a running request ends nobody knows.
local RUNNING_WAIT_MS = 1000
local KEEP_S = 2 * 86400
local BUCKET_SLACK_MS = 300000

local prefix = KEYS[1]
local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now = now_s * 1000000 + tonumber(time[2])

local function read_bucket(key, limit)
  local stored = redis.call('GET', key)
  if not stored then return 0 end
  local level, at = struct.unpack('<dd', stored)
  return math.max(0, level - limit * math.max(0, now - at))
end

local function write_bucket(key, limit, level)
  if level <= 0 then
    redis.call('DEL', key)
  else
    local drained_ms = math.ceil(level / limit / 1000) + BUCKET_SLACK_MS
    redis.call('SET', key, struct.pack('<dd', level, now), 'PX', string.format('%.0f', drained_ms))
  end
end

local function add_spent(held, tokens)
  local amount = string.format('%.0f', tokens)
  for period, bounds in pairs({d = {held.day, held.day_end}, m = {held.month, held.month_end}}) do
    local key = string.format('%s:%s:%.0f', prefix, period, bounds[1])
    local spent = redis.call('HINCRBY', key, 't', amount)
    redis.call('HINCRBY', key, held.key, amount)
    if spent == tokens then
      redis.call('EXPIREAT', key, string.format('%.0f', bounds[2] + KEEP_S))
    end
  end
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

local function release(held)
  for _, scope in ipairs({'t', held.key}) do
    if redis.call('HINCRBY', prefix .. ':running', scope, -1) <= 0 then
      redis.call('HDEL', prefix .. ':running', scope)
    end
  end
end

-- Return the start and the end of the period that holds now; nil if none of the known ones does.
local function period_of_now(previous, current, following, ends)
  if now_s < previous or now_s >= ends then return nil end
  if now_s < current then return previous, current end
  if now_s < following then return current, following end
  return following, ends
end

-- One limit: whether it admits, when it would, and what remains and when it is whole again, before and after.

local function bucket_state(key, limit, amount)
  if limit == 0 then return {admits = false, wait_ms = 60000, 0, 60000, 0, 60000} end
  local level = read_bucket(key, limit)
  local after = level + amount * UNIT
  local over = after - limit * UNIT
  return {
    admits = over <= 0, wait_ms = math.ceil(over / limit / 1000), key = key, limit = limit, after = after,
    limit - math.ceil(level / UNIT), math.ceil(level / limit / 1000),
    limit - math.ceil(after / UNIT), math.ceil(after / limit / 1000),
  }
end

local function running_state(scope, limit)
  local left = limit - tonumber(redis.call('HGET', prefix .. ':running', scope) or 0)
  return {
    admits = left > 0, wait_ms = RUNNING_WAIT_MS,
    left, left < limit and RUNNING_WAIT_MS or 0, left - 1, RUNNING_WAIT_MS,
  }
end

local function quota_state(period, start, ends, scope, limit, tokens)
  local key = string.format('%s:%s:%.0f', prefix, period, start)
  local left = limit - tonumber(redis.call('HGET', key, scope) or 0)
  local wait_ms = math.ceil(ends * 1000 - now / 1000)
  return {admits = tokens <= left, wait_ms = wait_ms, left, wait_ms, left - tokens, wait_ms}
end

-- Answers {'admitted' or 'refused', now_s, place of the limit that opens last or 0, its wait in ms, then what
-- remains and the reset in ms of each limit}, or {'unknown', now_s}, or {'periods', now_s} if now is in none of
-- the periods.
local function take(request, process, key, numbers)
  if redis.call('EXISTS', prefix .. ':epoch') == 0 then return {'unknown', now_s} end
  local n = {struct.unpack('<ddddddddddddddddddd', numbers)}
  local tokens = n[1]
  local day, day_end = period_of_now(n[2], n[3], n[4], n[5])
  local month, month_end = period_of_now(n[6], n[7], n[8], n[9])
  if not day or not month then return {'periods', now_s} end

  local states = {}
  local function judge(scope, rpm, tpm, running, per_day, per_month)
    if rpm >= 0 then states[#states + 1] = bucket_state(prefix .. ':r:' .. scope, rpm, 1) end
    if tpm >= 0 then states[#states + 1] = bucket_state(prefix .. ':w:' .. scope, tpm, tokens) end
    if running >= 0 then states[#states + 1] = running_state(scope, running) end
    if per_day >= 0 then states[#states + 1] = quota_state('d', day, day_end, scope, per_day, tokens) end
    if per_month >= 0 then states[#states + 1] = quota_state('m', month, month_end, scope, per_month, tokens) end
  end
  judge('t', unpack(n, 10, 14))
  judge(key, unpack(n, 15, 19))

  local answer = {'admitted', now_s, 0, 0}
  for place, state in ipairs(states) do
    if not state.admits and (answer[3] == 0 or state.wait_ms > answer[4]) then
      answer[1], answer[3], answer[4] = 'refused', place, state.wait_ms
    end
  end
  local offset = answer[3] == 0 and 2 or 0
  for place, state in ipairs(states) do
    answer[3 + 2 * place] = math.max(0, state[1 + offset])
    answer[4 + 2 * place] = state[2 + offset]
  end
  if answer[3] ~= 0 then return answer end

  for _, state in ipairs(states) do
    if state.after then write_bucket(state.key, state.limit, state.after) end
  end
  local held = {
    process = process, key = key, at = now_s, tokens = tokens, day = day, day_end = day_end, month = month,
    month_end = month_end, tenant_tpm = math.max(0, n[11]), key_tpm = math.max(0, n[16]),
  }
  add_spent(held, tokens)
  redis.call('HINCRBY', prefix .. ':running', 't', 1)
  redis.call('HINCRBY', prefix .. ':running', key, 1)
  redis.call('HSET', prefix .. ':open', request, cmsgpack.pack(held))
  return answer
end

-- Answers 1, or 0 if there is no such reservation: it was settled, or Redis lost its memory.
local function settle(request, tokens)
  local packed = redis.call('HGET', prefix .. ':open', request)
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

-- Takes the ids of live processes after grace_s. Answers how many reservations were given back. Those younger than
-- grace_s stay: their process may not have reported yet.
local function sweep(grace_s)
  local live = {}
  for i = 3, #ARGV do live[ARGV[i]] = true end
  local open = redis.call('HGETALL', prefix .. ':open')
  local returned = 0
  for i = 1, #open, 2 do
    local held = cmsgpack.unpack(open[i + 1])
    local forgotten = now_s - held.at > KEEP_S
    local dead = not live[held.process] and now_s - held.at >= tonumber(grace_s)
    if not held.swept and (forgotten or dead) then
      release(held)
      add_tokens(held, -held.tokens)
      held.swept = true
      redis.call('HSET', prefix .. ':open', open[i], cmsgpack.pack(held))
      returned = returned + 1
    end
    if forgotten then redis.call('HDEL', prefix .. ':open', open[i]) end
  end
  return returned
end

-- Takes five arguments for each sum: period, start, end, scope, tokens. Answers 1, or 0 if somebody was quicker.
-- Reads them in place, as there may be more than fit on Lua's stack.
local function begin()
  if not redis.call('SET', prefix .. ':epoch', now_s, 'NX') then return 0 end
  local known = {}
  for i = 2, #ARGV, 5 do
    local key = prefix .. ':' .. ARGV[i] .. ':' .. ARGV[i + 1]
    if not known[key] then redis.call('DEL', key) end
    known[key] = true
    redis.call('HSET', key, ARGV[i + 3], ARGV[i + 4])
    redis.call('EXPIREAT', key, string.format('%.0f', tonumber(ARGV[i + 2]) + KEEP_S))
  end
  -- What runs is in no sum yet. There is any only if the epoch alone was taken away, to have it all counted anew.
  for _, packed in ipairs(redis.call('HVALS', prefix .. ':open')) do
    local held = cmsgpack.unpack(packed)
    if not held.swept then
      for _, period in ipairs({{'d', held.day}, {'m', held.month}}) do
        local key = string.format('%s:%s:%.0f', prefix, period[1], period[2])
        if known[key] then
          redis.call('HINCRBY', key, 't', string.format('%.0f', held.tokens))
          redis.call('HINCRBY', key, held.key, string.format('%.0f', held.tokens))
        end
      end
    end
  end
  return 1
end

local acts = {take = take, settle = settle, sweep = sweep, begin = begin}
return acts[ARGV[1]](ARGV[2], ARGV[3], ARGV[4], ARGV[5])
