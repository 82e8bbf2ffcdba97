-- What wrk sends, and its result as one line of JSON. Set by environment variables:
-- LOAD_BODY, a file to POST (none: GET); LOAD_PAUSE, milliseconds between requests of a connection.
local file = os.getenv("LOAD_BODY")
if file then
  wrk.method = "POST"
  wrk.body = io.open(file, "rb"):read("*a")
  wrk.headers["Content-Type"] = "application/json"
end

local pause = tonumber(os.getenv("LOAD_PAUSE") or "0")
if pause > 0 then
  function delay()
    return math.random(math.floor(pause / 2), math.ceil(1.5 * pause))
  end
end

function done(summary, latency)
  local shares = {}
  for _, share in ipairs({50, 75, 90, 95, 99, 99.9, 99.99}) do
    shares[#shares + 1] = string.format('"%g": %g', share, latency:percentile(share) / 1e6)
  end
  shares[#shares + 1] = string.format('"100": %g', latency.max / 1e6)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %g, "errors": %d, "latency": {%s}}\n',
    summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout, table.concat(shares, ", ")
  ))
end
