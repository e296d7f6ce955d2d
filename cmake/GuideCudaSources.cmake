# The CUDA kernels and what launches them, for the product and for the emulator of the tests.

set(cuda ${CMAKE_CURRENT_LIST_DIR}/../csrc/attention/cuda)
cmake_path(NORMAL_PATH cuda)
# Compiled by nvcc, one object each. Their names differ, whichever folder they lie in.
file(GLOB GUIDE_CUDA_KERNELS CONFIGURE_DEPENDS ${cuda}/sm80/instances/*.cu)
# Compiled by the C++ compiler.
set(GUIDE_CUDA_LAUNCHES ${cuda}/choose.cpp ${cuda}/forward.cpp ${cuda}/sm80/launch.cpp)
