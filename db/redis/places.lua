-- Places and the line of one model: one call takes in all that one process has to say and tells it what follows.
--
-- KEYS[1] is a hash with everything about the model, ARGV[1] what the process says, ARGV[2] the channel on which
-- processes hear that they should speak (theirs alone with their name behind it). Fields of the hash:
--   state      processes: name -> {seq, at: when it last spoke, held: backend -> places, caps: of the backends its
--              tickets name, waiting: how many tickets, deaf: it did not take an offer}
--              offers: {process, number, backend, at}, places that are kept for a ticket
--              at, opens: when anybody last spoke, until when nothing is given; last: the newest arrival given
--   t:<name>   the tickets of a process: {number, arrival, backends}
--
-- A process always says all it holds and everybody of its own who waits: whatever was lost is whole again with its
-- next word, and nothing has to be undone. The tickets of others are only looked at when there is something to give.
-- Times are microseconds.

local LEASE = 2000000
local HELD = 6000000
local OFFER = 100000
-- Processes that hold anything speak every second: after twice that, nobody could.
local SILENCE = 2000000
local KEEP_MS = 86400000

local NUMBER, ARRIVAL, BACKENDS = 1, 2, 3

local key, channel = KEYS[1], ARGV[2]
local process, seq, recall, most_waiting, model, held, caps, wanted = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function anybody_holds(state)
  for _, one in pairs(state.processes) do
    if next(one.held) then return true end
  end
  return false
end

-- What Redis forgot, or what went on while nobody could speak, has to be said again before anything is given.
local function recollect()
  local packed = redis.call('HGET', key, 'state')
  local state = packed and cmsgpack.unpack(packed) or {processes = {}, offers = {}, last = 0, opens = 0}
  if not packed or (now - state.at > SILENCE and anybody_holds(state)) then
    state.opens = now + recall
    for _, one in pairs(state.processes) do one.at = math.max(one.at, state.opens - HELD) end
    redis.call('PUBLISH', channel, model)
  end
  return state
end

local state = recollect()
local processes = state.processes

-- Words that a broken connection delivered late.
if processes[process] and processes[process].seq >= seq then return cmsgpack.pack({}) end

local function tickets_of(name)
  local packed = redis.call('HGET', key, 't:' .. name)
  return packed and cmsgpack.unpack(packed) or {}
end

-- Drop who has not spoken for so long that it counts as dead.
local function bury()
  for name, one in pairs(processes) do
    if now - one.at > HELD then
      processes[name] = nil
      redis.call('HDEL', key, 't:' .. name)
    end
  end
end

local function is_in_line(name)
  return processes[name] and processes[name].waiting > 0 and now - processes[name].at <= LEASE
end

-- This process's tickets with their arrivals, by number and in order. Those that were not here before are fresh.
local function receive_tickets()
  local mine, fresh, known = {}, {}, nil
  for _, one in ipairs(wanted) do
    local number, arrival, _, backends = unpack(one)
    if arrival == 0 then
      -- The answer that told it may have been lost.
      if not known then
        known = {}
        for _, ticket in ipairs(tickets_of(process)) do known[ticket[NUMBER]] = ticket[ARRIVAL] end
      end
      arrival = known[number]
      if not arrival then
        arrival = math.max(now, state.last + 1)
        fresh[number] = true
      end
    end
    state.last = math.max(state.last, arrival)
    mine[number] = {number, arrival, backends}
  end
  return mine, fresh
end

bury()
local me = {seq = seq, at = now, held = held, caps = caps, waiting = #wanted}
processes[process], state.at = me, now
local mine, fresh = receive_tickets()

local used = {}
for _, one in pairs(processes) do
  for backend, places in pairs(one.held) do used[backend] = (used[backend] or 0) + places end
end

-- Keep what others may still take; answers whose it is. What was kept for this process is given out below, to the
-- same ticket unless that has left, or one that arrived before it came back.
local function keep_offers()
  local kept, kept_for = {}, {}
  for _, offer in ipairs(state.offers) do
    local name, number, backend, at = unpack(offer)
    if name ~= process and now - at <= OFFER then
      kept[#kept + 1] = offer
      kept_for[name .. ' ' .. number] = true
      used[backend] = (used[backend] or 0) + 1
    elseif name ~= process and processes[name] then
      -- Nobody of a process that does not listen is offered anything before it speaks again.
      processes[name].deaf = true
    end
  end
  state.offers = kept
  return kept_for
end

local function has_room(name, backend)
  return (used[backend] or 0) < (processes[name].caps[backend] or 0)
end

-- Whether anybody in line waits for what is free.
local function anything_to_give()
  if now < state.opens then return false end
  for name, one in pairs(processes) do
    if is_in_line(name) and not one.deaf then
      for backend in pairs(one.caps) do
        if has_room(name, backend) then return true end
      end
    end
  end
  return false
end

local function whole_line()
  local line = {}
  for name, one in pairs(processes) do
    if is_in_line(name) and not one.deaf then
      for _, ticket in pairs(name == process and mine or tickets_of(name)) do
        line[#line + 1] = {name, ticket}
      end
    end
  end
  table.sort(line, function(a, b)
    if a[2][ARRIVAL] ~= b[2][ARRIVAL] then return a[2][ARRIVAL] < b[2][ARRIVAL] end
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2][NUMBER] < b[2][NUMBER]
  end)
  return line
end

-- Everything that is free goes to the first in line that can use it. Answers what this process's tickets get.
local function hand_out(kept_for)
  local given, heard = {}, {}
  for _, one in ipairs(whole_line()) do
    local name, number, backends = one[1], one[2][NUMBER], one[2][BACKENDS]
    for _, backend in ipairs(kept_for[name .. ' ' .. number] and {} or backends) do
      if has_room(name, backend) then
        used[backend] = (used[backend] or 0) + 1
        if name == process then
          given[number] = backend
          held[backend] = (held[backend] or 0) + 1
        else
          state.offers[#state.offers + 1] = {name, number, backend, now}
          heard[name] = true
        end
        break
      end
    end
  end
  for name in pairs(heard) do redis.call('PUBLISH', channel .. ':' .. name, model) end
  return given
end

local kept_for = keep_offers()
local given = anything_to_give() and hand_out(kept_for) or {}

local is_open = now >= state.opens
local waiting = 0
for name, one in pairs(processes) do
  if name ~= process and is_in_line(name) then waiting = waiting + one.waiting end
end
-- Who waits only for the line to open is not turned away for it.
for backend, places in pairs(is_open and {} or caps) do
  most_waiting = most_waiting + math.max(0, places - (used[backend] or 0))
end
local answers, staying = {}, {}
for _, one in ipairs(wanted) do
  local number, _, stays = unpack(one)
  local verdict = 'wait'
  if given[number] then
    verdict = 'place'
  elseif not stays and (is_open or waiting >= most_waiting) then
    verdict = 'pass'
  elseif fresh[number] and waiting >= most_waiting then
    verdict = 'full'
  else
    waiting = waiting + 1
    staying[#staying + 1] = mine[number]
  end
  answers[#answers + 1] = {number, verdict, mine[number][ARRIVAL], given[number] or ''}
end
me.waiting = #staying

redis.call('HSET', key, 'state', cmsgpack.pack(state))
if #staying > 0 then
  redis.call('HSET', key, 't:' .. process, cmsgpack.pack(staying))
else
  redis.call('HDEL', key, 't:' .. process)
end
redis.call('PEXPIRE', key, KEEP_MS)
return cmsgpack.pack(answers)
