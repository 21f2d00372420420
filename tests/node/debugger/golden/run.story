r is a run of workflow tickets, submitted by tenant default at 2023-11-14 22:13:20.002Z.

Node read began after 0 ms and succeeded 2 ms later. Node high began after 2 ms and succeeded 0 ms later (-> true). Node low was skipped (NOT_TAKEN: its branch was not taken). Node top began after 2 ms and failed 2 ms later (SKILL_FAILED: it broke).

read~0 (a task of type echo) began after 0 ms and SUCCEEDED 2 ms later on n1.

top~0 (a task of type echo) began after 2 ms and FAILED 2 ms later on n1: SKILL_FAILED: it broke.

It ended as FAILED at 2023-11-14 22:13:20.006Z, after 4 ms: NODES_FAILED: failed: top.
