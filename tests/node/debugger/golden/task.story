t1 is a task of type echo, submitted by tenant default at 2023-11-14 22:13:20.003Z.

Attempt 1 started on n1 after waiting 2 ms. It recorded 1 step: ask. After 5.0 s it was taken back from n1: node n1 was lost: "no reports"; for <5 s>. Attempt 2 started on n2 after waiting 2 ms. It failed after 1 ms and was to be tried again: it broke. Attempt 3 started on n2 after waiting 1 min 30 s. It recorded 1 step: ask#2. After 2 ms it gave up its place to wait: go. Attempt 4 started on n1 after waiting 1.0 s. It succeeded after 1 ms. Signal go came after 1 min 36 s.

2 calls of language models cost 0.001000 USD, with 200 tokens in and 40 out.

It ended as SUCCEEDED at 2023-11-14 22:14:56.018Z, after 1 min 36 s.
