// SPDX-License-Identifier: MIT
#include "error_keeper.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace guide {

namespace {

namespace py = pybind11;

// Calls of Python that C++ has under way on this thread: a signal handler may start another one
// inside the first.
thread_local int num_calls = 0;
// The error of the last one. Taken as soon as C++ sees that its call has failed.
thread_local PyObject* kept_error = nullptr;

void begin_call() { ++num_calls; }

// pybind11 asks an exception of this kind to set the error itself, whichever library threw it and
// whichever version of pybind11 catches it. torch's operators are called through pybind11. Where
// types of two libraries are not the same (not so with GCC's runtime), it is a RuntimeError with
// the text of the error.
class KeptError final : public py::builtin_exception {
 public:
  KeptError(std::shared_ptr<PyObject> error, const std::string& text)
      : py::builtin_exception(text), error_(std::move(error)) {}
  void set_error() const override {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error_.get())), error_.get());
  }

 private:
  std::shared_ptr<PyObject> error_;
};

void release(PyObject* error) {
  if (!Py_IsInitialized()) return;
  const py::gil_scoped_acquire gil;
  Py_DECREF(error);
}

// For who catches it in C++.
std::string text_of(PyObject* error) {
  const auto message = py::reinterpret_steal<py::object>(PyObject_Str(error));
  const char* text = message ? PyUnicode_AsUTF8(message.ptr()) : nullptr;
  if (text == nullptr) PyErr_Clear();
  return std::string(Py_TYPE(error)->tp_name) + ": " + (text == nullptr ? "?" : text);
}

void end_call(bool has_failed) {
  --num_calls;
  if (kept_error == nullptr || (!has_failed && num_calls > 0)) return;
  const py::gil_scoped_acquire gil;
  const std::shared_ptr<PyObject> error(std::exchange(kept_error, nullptr), release);
  if (has_failed) throw KeptError(error, text_of(error.get()));
}

py::cpp_function keep_errors(py::function function) {
  return py::cpp_function([function = std::move(function)](const py::args& positional,
                                                           const py::kwargs& named) -> py::object {
    try {
      return function(*positional, **named);
    } catch (py::error_already_set& error) {
      if (num_calls > 0) Py_XSETREF(kept_error, error.value().inc_ref().ptr());
      throw;
    }
  });
}

py::tuple error_keeper() {
  return py::make_tuple(reinterpret_cast<std::uintptr_t>(&begin_call),
                        reinterpret_cast<std::uintptr_t>(&end_call));
}

}  // namespace

void define_error_keeper(py::module_& module) {
  module.def("keep_errors", &keep_errors,
             "Wrap an operator's function: what it raises passes through a C++ kernel unchanged.");
  module.def("error_keeper", &error_keeper,
             "Addresses of two functions, for guide_ext_keep_errors of a library.");
}

}  // namespace guide
