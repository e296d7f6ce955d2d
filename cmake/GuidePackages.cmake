# Python, torch and pybind11, for every build of this project.

find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)

# The folder of a Python package. It is located, not imported: importing torch takes seconds.
function(guide_find_package name variable)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
      "import importlib.util as u, os; print(os.path.dirname(u.find_spec('${name}').origin), end='')"
    OUTPUT_VARIABLE folder RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "guide_ext: ${Python_EXECUTABLE} has no ${name}: pip install ${name}")
  endif()
  set(${variable} ${folder} PARENT_SCOPE)
endfunction()

set(GUIDE_TORCH_TARGET 0x020a000000000000ULL CACHE STRING
    "Oldest torch whose stable ABI the libraries use (2.10)")
guide_find_package(torch GUIDE_TORCH_DIR)

add_library(torch_cpu SHARED IMPORTED)
set_target_properties(torch_cpu PROPERTIES
  IMPORTED_LOCATION ${GUIDE_TORCH_DIR}/lib/libtorch_cpu.so
  INTERFACE_INCLUDE_DIRECTORIES ${GUIDE_TORCH_DIR}/include
  INTERFACE_COMPILE_DEFINITIONS TORCH_TARGET_VERSION=${GUIDE_TORCH_TARGET})
