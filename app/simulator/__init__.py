"""A simulated Ollama server: a program of its own that tests, the demo and the benchmarks share.

It speaks Ollama's HTTP dialect (native and `/v1`), says deterministic words instead of running a model, and
can be ordered over HTTP (`/_sim/...`) to misbehave. One streamed content record is one token.
Run `python -m app.simulator`.

Read in this order: `server` (what goes where), `inference` (the way of a request), `native`, `openai` and
`embeddings` (what is asked, and the shape of the answers), `playback` (pacing), `faults` (misbehaviour),
`control` (orders), `http` (the wire).
"""
