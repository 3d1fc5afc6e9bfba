"""How wake-ups take turns: a lane for each deployment in front of each line, and a bounded number of turns at once.

A line is RQ's list, from which workers take: of each queue a common one and one for each spot on which something was
placed (`contract.spots`). Every id in a line runs next. What is still to wait stands in its deployment's *lane*; with
its *turn* it is moved from there into the line, and the turn ends with its run. A turn counts in its queue and, in a
spot's own line, there as well. What waits twice has one turn: a second would never end. A deployment gets another one

* while it has fewer, in all lines of both queues of runs, than its `concurrency` allows, and
* while it has, wherever the turn counts, fewer than `SHARE` times as many as are free, or none at all.

So ten thousand runs of one deployment never have all turns, each deployment has always one that runs or is next, and
where many want all they can get, they get the same. Of a deployment's lanes those of sync runs go first.

All of it is Lua, one step each, since many processes take part. A spot on another host may touch none of these keys: it
only says in `OVER` which turns have ended, and the API goes on from there. Turns of workers that were killed come back
with their leases (`Queue.tend`). The keys, where a place is a queue or a spot's own line::

    faaspot:lane:LINE:LANE   list of the job ids that wait
    faaspot:lanes:PLACE      hash: lane -> how many turns it has there; while it has any, or something waits
    faaspot:turns:PLACE      hash: job id -> "LINE LANE", of what is in a line or runs
    faaspot:capacity         hash: place -> how many turns there are, by what the spots last told
    faaspot:concurrency      hash: lane -> how many runs it may have at once; those with a limit
    faaspot:owners           set: addresses of the spots that have own lines
    faaspot:over             list: "QUEUE ID" of turns that have ended on other hosts
    faaspot:waiting          hash: line -> how many wait for room in it, which more workers would give
"""

from __future__ import annotations

from faaspot_runner.contract import PREFIX

SHARE = 3
"""A deployment alone gets three quarters of the turns."""
CAPACITY = PREFIX + "capacity"
OWNERS = PREFIX + "owners"
CONCURRENCY = PREFIX + "concurrency"
OVER = PREFIX + "over"
WAITING = PREFIX + "waiting"


def lanes_key(place: str) -> str:
    """Hash of the lanes that have something there, see the module."""
    return f"{PREFIX}lanes:{place}"


def lane_key(line: str, lane: str) -> str:
    """List of the job ids that wait for their turn."""
    return f"{PREFIX}lane:{line}:{lane}"


GIVING = """
local function lanes_of(place) return '~lanes:' .. place end
local function turns_of(place) return '~turns:' .. place end
local function waiting_in(line, lane) return '~lane:' .. line .. ':' .. lane end
local function queue_of(line) return line:match('^[^@]*') end

local function places_of(line)
  local queue = queue_of(line)
  if queue == line then return {queue} end
  return {queue, line}
end

local function lines_of(queue)
  local lines = {queue}
  for _, ip in ipairs(redis.call('SMEMBERS', '~owners')) do table.insert(lines, queue .. '@' .. ip) end
  return lines
end

local function held(place, lane) return tonumber(redis.call('HGET', lanes_of(place), lane) or 0) end

local function is_limited(line, lane)
  if queue_of(line) == 'builds' then return false end
  local most = redis.call('HGET', '~concurrency', lane)
  return most and held('sync', lane) + held('background', lane) >= tonumber(most)
end

local function has_its_share(line, lane)
  for _, place in ipairs(places_of(line)) do
    local has = held(place, lane)
    local free = tonumber(redis.call('HGET', '~capacity', place) or 0) - redis.call('HLEN', turns_of(place))
    if has > 0 and has >= @share * free then return true end
  end
  return false
end

local function forget(place, lane)
  if held(place, lane) <= 0 and redis.call('EXISTS', waiting_in(place, lane)) == 0 then
    redis.call('HDEL', lanes_of(place), lane)
  end
end

local function advance_in(line, lane)
  local waiting = waiting_in(line, lane)
  if redis.call('EXISTS', waiting) == 0 then return end
  while not is_limited(line, lane) and not has_its_share(line, lane) do
    local id = redis.call('LPOP', waiting)
    if not id then break end
    if redis.call('HEXISTS', turns_of(queue_of(line)), id) == 0 then
      for _, place in ipairs(places_of(line)) do
        redis.call('HSET', turns_of(place), id, line .. ' ' .. lane)
        redis.call('HINCRBY', lanes_of(place), lane, 1)
      end
      redis.call('RPUSH', 'rq:queue:' .. line, id)
    end
  end
end

local function advance(queue, lane)
  local queues = {'sync', 'background'}
  if queue == 'builds' then queues = {queue} end
  for _, each in ipairs(queues) do
    for _, line in ipairs(lines_of(each)) do advance_in(line, lane) end
  end
end

local function end_turn(queue, id)
  local turn = redis.call('HGET', turns_of(queue), id)
  if not turn then return end
  local line, lane = turn:match('^(%S+) (.*)$')
  for _, place in ipairs(places_of(line)) do
    redis.call('HDEL', turns_of(place), id)
    redis.call('HINCRBY', lanes_of(place), lane, -1)
  end
  advance(queue, lane)
  for _, place in ipairs(places_of(line)) do forget(place, lane) end
end
""".replace("@share", str(SHARE)).replace("'~", f"'{PREFIX}")
"""Lua functions, to stand before a script that ends turns and gives them to others."""

TELLING = f"""
local function end_turn(queue, id) redis.call('RPUSH', '{OVER}', queue .. ' ' .. id) end
"""
"""The same for who may only say which have ended."""
