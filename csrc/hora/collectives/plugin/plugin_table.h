// The border between C++ inside a plugin and the C interface: what a plugin exports is made of one
// class here, and no exception gets out.
#pragma once

#include <cstddef>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

#include "hora/collectives/plugin/plugin_abi.h"

namespace hora::plugin {

// What a library says of itself, and why this process cannot use it now (empty: it can).
struct Description {
  std::string text;
  std::string refusal;
};

// 0, or 1 with the text of what `call` threw.
template <class Call>
int Guarded(hora_plugin_error* error, Call&& call) noexcept {
  try {
    call();
    return 0;
  } catch (const std::exception& exception) {
    std::snprintf(error->text, sizeof(error->text), "%s", exception.what());
  } catch (...) {
    std::snprintf(error->text, sizeof(error->text), "an exception of an unknown type");
  }
  return 1;
}

// A method as a C function: what it takes lies there between the group and the error.
template <auto kMethod>
struct MethodCall;

template <class Group, class... Parameters, void (Group::*kMethod)(Parameters...)>
struct MethodCall<kMethod> {
  static int Run(void* group, Parameters... parameters, hora_plugin_error* error) {
    return Guarded(error, [&] { (static_cast<Group*>(group)->*kMethod)(parameters...); });
  }
};

// The functions of a plugin whose groups are objects of this class, made of a hora_plugin_group.
// Beside the methods for the operations it has Abort() noexcept, and, static, Describe() and
// Reduces(element) noexcept. The others may throw, which becomes the error's text.
template <class Group>
constexpr hora_plugin TableOf(const char* name) {
  return {
      .abi = HORA_PLUGIN_ABI,
      .name = name,
      .describe =
          [](char* text, std::size_t bytes, hora_plugin_error* error) {
            return Guarded(error, [&] {
              const Description description = Group::Describe();
              std::snprintf(text, bytes, "%s", description.text.c_str());
              if (!description.refusal.empty()) throw std::runtime_error(description.refusal);
            });
          },
      .create =
          [](const hora_plugin_group* wanted, void** group, hora_plugin_error* error) {
            return Guarded(error, [&] { *group = new Group(*wanted); });
          },
      .destroy =
          [](void* group) {
            hora_plugin_error ignored;
            Guarded(&ignored, [&] { delete static_cast<Group*>(group); });
          },
      .abort = [](void* group) { static_cast<Group*>(group)->Abort(); },
      .reduces = [](hora_plugin_element element) { return Group::Reduces(element) ? 1 : 0; },
      .allreduce = MethodCall<&Group::Allreduce>::Run,
      .broadcast = MethodCall<&Group::Broadcast>::Run,
      .allgather = MethodCall<&Group::Allgather>::Run,
      .alltoall = MethodCall<&Group::Alltoall>::Run,
  };
}

}  // namespace hora::plugin
