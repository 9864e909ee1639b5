#include "hora/bindings/tensor_access.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hora/base/format.h"
#include "hora/bindings/dlpack_abi.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

[[noreturn]] void Refuse(std::string_view problem) {
  Raise(Error(StatusCode::kInvalidArgument, "{}", problem));
}

std::optional<DType> ToDType(dlpack::DataType type) {
  struct Row {
    std::uint8_t code;
    std::uint8_t bits;
    DType dtype;
  };
  static constexpr std::array<Row, kDTypeCount> kRows = {{
      {dlpack::kUInt, 8, DType::kUInt8},
      {dlpack::kInt, 8, DType::kInt8},
      {dlpack::kUInt, 16, DType::kUInt16},
      {dlpack::kInt, 16, DType::kInt16},
      {dlpack::kUInt, 32, DType::kUInt32},
      {dlpack::kInt, 32, DType::kInt32},
      {dlpack::kUInt, 64, DType::kUInt64},
      {dlpack::kInt, 64, DType::kInt64},
      {dlpack::kFloat, 16, DType::kFloat16},
      {dlpack::kBFloat, 16, DType::kBFloat16},
      {dlpack::kFloat, 32, DType::kFloat32},
      {dlpack::kFloat, 64, DType::kFloat64},
      {dlpack::kBool, 8, DType::kBool},
      {dlpack::kComplex, 64, DType::kComplex64},
      {dlpack::kComplex, 128, DType::kComplex128},
      {dlpack::kFloat8E4M3FN, 8, DType::kFloat8E4M3FN},
      {dlpack::kFloat8E4M3FNUZ, 8, DType::kFloat8E4M3FNUZ},
      {dlpack::kFloat8E5M2, 8, DType::kFloat8E5M2},
      {dlpack::kFloat8E5M2FNUZ, 8, DType::kFloat8E5M2FNUZ},
      {dlpack::kFloat8E8M0FNU, 8, DType::kFloat8E8M0FNU},
      {dlpack::kComplex, 32, DType::kComplex32},
  }};
  for (const Row& row : kRows) {
    if (row.code == type.code && row.bits == type.bits && type.lanes == 1) return row.dtype;
  }
  return std::nullopt;
}

std::optional<DType> ToDType(std::string_view torch_name) {  // "torch.float32"
  torch_name.remove_prefix(std::min(torch_name.size(), std::string_view("torch.").size()));
  for (int i = 0; i < kDTypeCount; ++i) {
    if (ToString(static_cast<DType>(i)) == torch_name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

bool IsDense(const dlpack::Tensor& tensor) {
  // Nothing to walk over: any strides will do, and from_numpy() gives odd ones.
  for (int axis = 0; axis < tensor.ndim; ++axis) {
    if (tensor.shape[axis] == 0) return true;
  }
  std::int64_t expected = 1;
  for (int axis = tensor.ndim; axis-- > 0;) {
    const std::int64_t dim = tensor.shape[axis];
    if (dim != 1 && tensor.strides != nullptr && tensor.strides[axis] != expected) return false;
    expected *= dim;
  }
  return true;
}

TensorView ViewOf(const dlpack::Tensor& tensor, DType dtype) {
  const auto type = tensor.device.type == dlpack::kCpu ? DeviceType::kCpu : DeviceType::kCuda;
  return {.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset,
          .dtype = dtype,
          .device = {type, static_cast<std::int16_t>(tensor.device.index)},
          .shape = Shape(std::span(tensor.shape, static_cast<std::size_t>(tensor.ndim)))};
}

TensorView FromDLPack(const dlpack::Tensor& tensor) {
  const std::optional<DType> dtype = ToDType(tensor.dtype);
  if (!dtype) {
    Refuse(fmt::format("tensors of DLPack type code {} with {} bits are not supported",
                       tensor.dtype.code, tensor.dtype.bits));
  }
  if (!IsDense(tensor)) Refuse("the tensor is not contiguous; pass tensor.contiguous()");
  if (tensor.device.type != dlpack::kCpu && tensor.device.type != dlpack::kCuda) {
    Refuse(fmt::format("tensors on DLPack device type {} are not supported; use the CPU or CUDA",
                       tensor.device.type));
  }
  return ViewOf(tensor, *dtype);
}

TensorView FromAttributes(py::handle tensor) {
  const std::string dtype_name = py::str(tensor.attr("dtype"));
  const std::optional<DType> dtype = ToDType(std::string_view(dtype_name));
  if (!dtype) Refuse(fmt::format("tensors of {} are not supported", dtype_name));
  const std::string layout = py::str(tensor.attr("layout"));
  if (layout != "torch.strided")
    Refuse(fmt::format("tensors of layout {} are not supported", layout));
  if (!tensor.attr("is_contiguous")().cast<bool>()) {
    Refuse("the tensor is not contiguous; pass tensor.contiguous()");
  }
  const std::string device = py::str(tensor.attr("device").attr("type"));
  if (device != "cpu" && device != "cuda")
    Refuse(fmt::format("tensors on {} are not supported; use the CPU or CUDA", device));
  const py::object index = tensor.attr("device").attr("index");
  return {.data = reinterpret_cast<std::byte*>(tensor.attr("data_ptr")().cast<std::uintptr_t>()),
          .dtype = *dtype,
          .device = {device == "cpu" ? DeviceType::kCpu : DeviceType::kCuda,
                     index.is_none() ? std::int16_t{0} : index.cast<std::int16_t>()},
          .shape = Shape(tensor.attr("shape").cast<std::vector<std::int64_t>>())};
}

// Null when the type has none (older PyTorch), or one of another major version.
const dlpack::ExchangeApi* FindExchangeApi(py::handle type) {
  const py::object capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), dlpack::kExchangeCapsule)) return nullptr;
  auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeCapsule));
  while (api != nullptr && api->major != dlpack::kMajorVersion) api = api->previous;
  return api != nullptr && api->tensor_from_object != nullptr ? api : nullptr;
}

// Tensor and Parameter are all that is usually seen; types live as long as the process here.
const dlpack::ExchangeApi* ExchangeApiOf(py::handle tensor) {
  struct Known {
    PyTypeObject* type = nullptr;
    const dlpack::ExchangeApi* api = nullptr;
  };
  static std::array<Known, 2> known;  // guarded by the GIL
  PyTypeObject* type = Py_TYPE(tensor.ptr());
  for (const Known& entry : known) {
    if (entry.type == type) return entry.api;
  }
  static std::size_t next = 0;
  const dlpack::ExchangeApi* api = FindExchangeApi(reinterpret_cast<PyObject*>(type));
  Py_XDECREF(known[next].type);
  Py_INCREF(type);
  known[next] = {type, api};
  next = (next + 1) % known.size();
  return api;
}

// torch.Tensor and torch.nn.Parameter. Guarded by the GIL; types live as long as the process here.
std::vector<PyTypeObject*>& PlainTypes() {
  static auto* types = new std::vector<PyTypeObject*>();
  return *types;
}

bool IsPlainType(PyTypeObject* type) {
  const std::vector<PyTypeObject*>& types = PlainTypes();
  return std::find(types.begin(), types.end(), type) != types.end();
}

// x.conj().imag is a view whose memory holds the negated values; DLPack does not say so.
bool IsNegated(py::handle tensor) {
  static PyObject* name = PyUnicode_InternFromString("is_neg");
  PyObject* self = tensor.ptr();
  const auto answer = py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(name, &self, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  if (!answer) throw py::error_already_set();
  return answer.ptr() != Py_False;
}

}  // namespace

void SetPlainTypes(py::handle types) {
  PlainTypes().clear();
  for (const py::handle type : types) {
    if (!PyType_Check(type.ptr())) throw py::type_error("plain types are classes");
    PlainTypes().push_back(reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr()));
  }
}

std::optional<TensorView> ReadPlainTensor(py::handle tensor) {
  if (!IsPlainType(Py_TYPE(tensor.ptr()))) return std::nullopt;
  const dlpack::ExchangeApi* api = ExchangeApiOf(tensor);
  if (api == nullptr) return std::nullopt;
  dlpack::Tensor view{};
  if (api->tensor_from_object(tensor.ptr(), &view) != 0) {
    PyErr_Clear();  // sparse, quantised, meta, …: whoever prepares it says so
    return std::nullopt;
  }
  const std::optional<DType> dtype = ToDType(view.dtype);
  const bool known = view.device.type == dlpack::kCpu || view.device.type == dlpack::kCuda;
  const bool fits =
      dtype && *dtype <= DType::kFloat64 && known && IsDense(view) && !IsNegated(tensor);
  if (!fits) return std::nullopt;
  return ViewOf(view, *dtype);
}

TensorView ReadTensor(py::handle tensor) {
  const dlpack::ExchangeApi* api = ExchangeApiOf(tensor);
  if (api == nullptr) {
    if (!py::hasattr(tensor, "data_ptr")) {
      Refuse(fmt::format("a torch.Tensor is needed, not {}", Py_TYPE(tensor.ptr())->tp_name));
    }
    return FromAttributes(tensor);
  }
  dlpack::Tensor view{};
  if (api->tensor_from_object(tensor.ptr(), &view) != 0) {
    py::error_already_set failure;  // takes the Python error: sparse, quantised, meta, …
    Refuse(fmt::format("this tensor has no dense memory that can be read: {}", failure.what()));
  }
  return FromDLPack(view);
}

StreamQuery StreamQueryOf(py::handle tensor) {
  const dlpack::ExchangeApi* api = ExchangeApiOf(tensor);
  return api == nullptr ? nullptr : api->current_work_stream;
}

StreamQuery PlainStreamQuery() {
  if (PlainTypes().empty()) return nullptr;
  const dlpack::ExchangeApi* api =
      FindExchangeApi(reinterpret_cast<PyObject*>(PlainTypes().front()));
  return api == nullptr ? nullptr : api->current_work_stream;
}

}  // namespace hora::bindings
