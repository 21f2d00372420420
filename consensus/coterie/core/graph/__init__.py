"""Workflows as data: the graph, its expressions and references, what is wrong with it, how it would run.

Pure. Files in any of the accepted forms are read at the edge into the one form that `reading` knows."""
