-- What wrk sends and what it tells. The argument after `--` is the request's body.

function init(args)
    wrk.method = "POST"
    wrk.body = args[1]
end

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format(
        '{"requests": %d, "microseconds": %d, "failed": %d, "p50_us": %d, "p99_us": %d}\n',
        summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)
    ))
end
