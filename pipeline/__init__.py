"""capsieve: tells good captions from bad ones at the scale of web datasets.

The way of a row, and the module that owns each step:

    manifest   finds Parquet manifests, recognises columns (`columns`), cuts them into shards (`shards`)
    records    rows -> images: which rows name the same one
    fetch      URL -> bytes, under rules
    images     bytes -> uint8 pixels; `image_files` what an image file's header says
    isolation  the same in a process that may die of an image
    model      BLIP_ITM as published; usable alone: `from pipeline.model import blip_itm`
    scorer     one replica: pixels and captions in, both scores out
    stages     the above lifted to Arrow batches: what each Ray stage calls
    dataflow   the graph in one expression
    commits    commits in tasks beside it
    cluster    joining or starting Ray; these three and `watching.export` are all that imports it
    output     staged parts, commit of a shard
    resume     what a start finds in an output: refusal, resumption, a second chance
    tallies    what is frequent in an output: placeholders, hosts that fail
    sizing     batches, blocks, chunks and what may be in flight, from the cluster and the model
    clocks     what each stage does with its time
    progress   what the driver knows of a run: plan, coverage, summary; `bottleneck` says what held it back
    watching   metrics, warnings in words, the log of a run, the record of all runs
    run        the driver's loop: resume -> dataflow -> receipts -> commits -> summary; `preview` what it would do

beside them

    schema, errors, config, commandline   what flows, how it fails, every setting (`dataset_settings`), how they are read
    lease, conditional                    one run at a time writes to an output; files that several want to change
    provenance, verify                    what files say of themselves; whether an output is what it should be
    patience                              waiting for a store that is down, in the middle of a run
    storage                               how stores are opened, read and written; `storage_failures`, `local_files`
    filters, filter_rules                 which rows stay, once they have scores; the rules as they are written
    calibration                           rows worth labelling, a page to label on, the threshold that labels speak for
    thumbnails                            small JPEGs for pages, fetched and decoded as a run does it
    report                                one HTML page of an output: scores, thresholds, pairs, failures, provenance
    planning, plan_settings               what a run will take: a sample measured here, time and dollars on machines for rent
    nightly, nightly_settings             new partitions scored, filtered, reported, compared; an alarm where one differs
    drift, profiles                       whether a night looks like those before it; what is kept of a night for that
    evaluate, labelled                    AUC and its intervals; of a labelled manifest
    explain                               why a score: rows chosen, maps of words, pictures
    scenes, training                      rendered scenes, what a model makes of them; how the demo model learns from them
    local_s3                              a real S3 server on loopback, for the demo, tests and benchmarks

This file imports nothing.
"""
