"""The network on NVIDIA GPUs, close to what the device can do.

problems.py   why CUDA cannot be used here, and which errors mean that memory ran out
buckets.py    batch sizes for which everything is prepared
device.py     streams, events, page-locked memory and graphs: the only file that calls torch.cuda
network.py    pictures in, one packed tensor out; precision by part
fused.py      convolution, bias, sum and ReLU in one kernel
crops.py      people cut out of a frame on the device
staging.py    double-buffered copies to and from the device
runtime.py    the row "cuda" of core.runtimes
bench.py, training_bench.py    python -m core.bench --device cuda
"""
