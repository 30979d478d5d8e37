"""Partitions on a `dask.distributed` cluster: descriptions, hashes and counts pass its scheduler, rows never do.

The client, which is a stage on the machine of `dvc repro`, puts a task's inputs into shared storage, by hash, and
submits a description. A worker that runs the same code on the same library versions fetches the inputs, computes, puts
the result and its record there, and answers with hash and counts; the client fetches the result. The result is an
input of the next stage, and is not uploaded again. Everything in shared storage can be uploaded or computed again:

    files/SHA256       inputs and results: files, and frames in Arrow's format
    memo/KEY.json      records of results, as in the memo
"""
