-- What every limited request asks: to be let in, and to be charged for what it took. Behind limits_common.lua.
-- One call decides over all limits or changes nothing.

-- When a running request ends nobody knows.
local RUNNING_WAIT_MS = 1000

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

-- Answers {'admitted' or 'refused', now, place of the limit that opens last or 0, its wait in ms, then what remains
-- and the reset in ms of each limit}, or {'unknown', now}, or {'periods', now} if now is in none of the periods, or
-- {'late', now} if whoever asked does not wait any more.
local function take(request, process, key, numbers)
  local n = {struct.unpack('<ddddddddddddddddddddd', numbers)}
  local tokens, until_us, again = n[1], n[2], n[3] == 1
  if now > until_us then return {'late', now} end
  local day, day_end = period_of_now(n[4], n[5], n[6], n[7])
  local month, month_end = period_of_now(n[8], n[9], n[10], n[11])
  if not day or not month then return {'periods', now} end
  if not has_epoch() then return {'unknown', now} end
  if again then settle(request, 0) end

  local states = {}
  local function judge(scope, rpm, tpm, running, per_day, per_month)
    if rpm >= 0 then states[#states + 1] = bucket_state(prefix .. ':r:' .. scope, rpm, 1) end
    if tpm >= 0 then states[#states + 1] = bucket_state(prefix .. ':w:' .. scope, tpm, tokens) end
    if running >= 0 then states[#states + 1] = running_state(scope, running) end
    if per_day >= 0 then states[#states + 1] = quota_state('d', day, day_end, scope, per_day, tokens) end
    if per_month >= 0 then states[#states + 1] = quota_state('m', month, month_end, scope, per_month, tokens) end
  end
  judge('t', unpack(n, 12, 16))
  judge(key, unpack(n, 17, 21))

  local answer = {'admitted', now, 0, 0}
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
    month_end = month_end, tenant_tpm = math.max(0, n[13]), key_tpm = math.max(0, n[18]),
  }
  add_spent(held, tokens)
  add_running(held)
  redis.call('HSET', prefix .. ':open', request, cmsgpack.pack(held))
  return answer
end

local acts = {take = take, settle = settle}
return acts[ARGV[1]](ARGV[2], ARGV[3], ARGV[4], ARGV[5])
