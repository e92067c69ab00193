"""Live answers: one process that keeps a pair resident and writes its answers as they grow.

`client.Playground` belongs to the page's process and imports no torch; `server` is the process with the weights.
They speak JSON lines: a request is {"id", "columns", "messages", "new_tokens"}, a reply {"id", "column", "text",
"done", "seconds"} or {"id", "error"}. A newer request stops the older one between two tokens. A request
without messages only loads its pair.
"""
