# libguide_ext_cuda: the CUDA kernels and their op. Needs an nvcc, but neither a GPU nor a CUDA
# build of torch. Sets GUIDE_CUDA_SKIPPED_BECAUSE where the nvcc cannot be used.

# nvcc says where its toolkit is: it may be called through a link or a script. One from a Python
# package has the runtime in lib, where nvcc and CMake look in lib64.
execute_process(COMMAND ${GUIDE_NVCC} --dryrun -E -x cu /dev/null ERROR_VARIABLE dryrun)
if(NOT dryrun MATCHES "TOP=([^\n]+)")
  set(GUIDE_CUDA_SKIPPED_BECAUSE "${GUIDE_NVCC} --dryrun does not say where its toolkit is")
  return()
endif()
get_filename_component(GUIDE_CUDA_ROOT ${CMAKE_MATCH_1} REALPATH)
find_library(GUIDE_CUDART_STATIC cudart_static
  HINTS ${GUIDE_CUDA_ROOT} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib)
find_path(GUIDE_CUDA_INCLUDE_DIR cuda_runtime.h
  HINTS ${GUIDE_CUDA_ROOT} PATH_SUFFIXES include targets/x86_64-linux/include
        targets/sbsa-linux/include)
if(NOT GUIDE_CUDART_STATIC OR NOT GUIDE_CUDA_INCLUDE_DIR)
  set(GUIDE_CUDA_SKIPPED_BECAUSE
      "${GUIDE_CUDA_ROOT} has no cuda_runtime.h or libcudart_static.a: pip install \
nvidia-cuda-runtime, or install the CUDA toolkit")
  return()
endif()

# The kernels are compiled by nvcc without CMake's CUDA language: a call of the compiler per file is
# all that is needed, with any nvcc, and torch's headers never reach it.
#
# -fmad=false: fused multiply-adds are written out, so that no two instances differ by what a
# compiler fuses. ptxas warns of spills to local memory; tests/cuda_gates makes them errors.
set(GUIDE_NVCC_FLAGS -std=c++17 -O3 -fmad=false -lineinfo --threads=1
  -Xcompiler=-fPIC,-fvisibility=hidden,-Wall -Xptxas=-warn-spills,-warn-lmem-usage
  -I${CMAKE_CURRENT_SOURCE_DIR}/csrc)
foreach(architecture IN LISTS GUIDE_CUDA_ARCHITECTURES)
  list(APPEND GUIDE_NVCC_FLAGS
    -gencode=arch=compute_${architecture},code=sm_${architecture})
endforeach()
# Newer GPUs compile the last architecture's PTX when they first run it.
list(GET GUIDE_CUDA_ARCHITECTURES -1 newest)
list(APPEND GUIDE_NVCC_FLAGS -gencode=arch=compute_${newest},code=compute_${newest})

set(GUIDE_CUDA_OBJECTS "")
foreach(source IN LISTS GUIDE_CUDA_KERNELS)
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/cuda
    COMMAND ${GUIDE_NVCC} ${GUIDE_NVCC_FLAGS} -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source}
    DEPFILE ${object}.d
    COMMENT "nvcc ${name}.cu"
    VERBATIM)
  list(APPEND GUIDE_CUDA_OBJECTS ${object})
endforeach()

# torch's CPU build has no libtorch_cuda. The product must need it all the same, so that its symbols
# come from the one that torch has loaded: an empty library of that name stands in for it here.
if(EXISTS ${GUIDE_TORCH_DIR}/lib/libtorch_cuda.so)
  add_library(torch_cuda SHARED IMPORTED)
  set_target_properties(torch_cuda PROPERTIES
    IMPORTED_LOCATION ${GUIDE_TORCH_DIR}/lib/libtorch_cuda.so)
else()
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp "")
  add_library(torch_cuda SHARED ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp)
  set_target_properties(torch_cuda PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/stand_in)
endif()

add_library(guide_ext_cuda SHARED
  csrc/ops/biased_attention.cpp
  csrc/ops/biased_attention_cuda.cpp
  csrc/ops/check_arguments.cpp
  csrc/ops/python_errors.cpp
  ${GUIDE_CUDA_LAUNCHES}
  ${GUIDE_CUDA_OBJECTS})
target_include_directories(guide_ext_cuda PRIVATE csrc)
target_include_directories(guide_ext_cuda SYSTEM PRIVATE ${GUIDE_CUDA_INCLUDE_DIR})
# USE_CUDA: the stable ABI shows its CUDA shims.
target_compile_definitions(guide_ext_cuda PRIVATE USE_CUDA)
find_package(Threads REQUIRED)
target_link_libraries(guide_ext_cuda PRIVATE
  torch_cpu torch_cuda ${GUIDE_CUDART_STATIC} Threads::Threads ${CMAKE_DL_LIBS} rt)
target_link_options(guide_ext_cuda PRIVATE LINKER:--no-as-needed)
