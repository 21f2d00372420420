"""A local server with an OpenAI-compatible API: scripted answers, billed on arrival, with faults on order.

`python -m coterie.node.demo.llmserver --help`; `process.LlmServerProcess` runs it for a test or a demo."""
