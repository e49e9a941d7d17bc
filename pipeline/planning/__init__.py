"""What a run will take, before it is begun: time on this cluster, and time and dollars on machines that can be rented.

sample     which rows are measured
measure    the stages on them, in this process: seconds, bytes, failures
pilot      a few of them through Ray: how long starting and ending take here
instances  the machines and prices of configs/instances.yaml
estimate   from all of these to rates, what binds, hours, dollars; pure arithmetic
run        the order of it all
"""
