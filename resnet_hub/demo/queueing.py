"""How many visitors are served at once, and for how long."""

#: Answers: those that are asked for at the same time go through the network together, see resnet_hub/batching.py.
TOGETHER = {"concurrency_limit": 16, "concurrency_id": "inference"}
#: Many pictures for one visitor, who leaves room for the others.
BULK = {"concurrency_limit": 2, "concurrency_id": "bulk"}
#: Heatmaps: two at a time take longer than one after the other, each using all cores.
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "heatmap"}
#: A live camera holds its place for as long as it runs, so it has places of its own, and gives them back.
LIVE = {"concurrency_limit": 4, "concurrency_id": "live", "time_limit": 120}
#: Reading and drawing what is there already.
LIGHT = {"concurrency_limit": 4, "concurrency_id": "light"}
