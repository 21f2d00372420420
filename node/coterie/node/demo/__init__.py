"""The demo: three real nodes read a library of documents while two of them are killed, and then prove it.

`python -m coterie.node.demo` starts the nodes, submits one document-map task per file, kills the leader
at one third and another node at two thirds, merges all results with document-reduce, and reads back from
every node what became of each task. The summary is computed from what was observed; a broken promise makes
the exit code 1.

Code map: `documents` chooses the input, `work` submits and collects, `faults` kills and restarts, `probe`
measures the gap in writes, `evidence` reads back, `proof` judges (pure), `view` and `output` show, `drive`
ties them together.
"""
