// Which libnccl is opened, and what is said where there is none that would do.
#include "hora/collectives/nccl/nccl_library.h"

#include <initializer_list>

#include "collectives/nccl_ranks.h"

namespace hora {
namespace {

constexpr const char* kNotLoaded = "no such library";

void ExpectRefused(const std::vector<std::string>& candidates, StatusCode code,
                   std::initializer_list<const char*> parts) {
  const auto opened = NcclLibrary::Open(candidates, kNotLoaded);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), code);
  for (const char* part : parts) {
    EXPECT_NE(opened.error().message().find(part), std::string::npos) << opened.error().message();
  }
}

TEST(NcclLibrary, TheFirstThatOpensIsTaken) {
  const auto library =
      NcclLibrary::Open({"/nowhere/libnccl.so.2", HORA_FAKE_NCCL, HORA_PARTIAL_NCCL}, kNotLoaded);
  ASSERT_TRUE(library) << library.error().ToString();
  EXPECT_EQ((*library)->version(), 22809);
  EXPECT_EQ((*library)->description(), "NCCL 2.28.9 (" HORA_FAKE_NCCL ")");
  EXPECT_NE((*library)->api().register_buffer, nullptr);
}

TEST(NcclLibrary, OneThatTheProcessHasGoesFirst) {
  const auto loaded = FakeNccl();
  const auto library = NcclLibrary::Open({HORA_PARTIAL_NCCL}, HORA_FAKE_NCCL);
  ASSERT_TRUE(library) << library.error().ToString();
  EXPECT_EQ((*library)->api().all_reduce, loaded->api().all_reduce);
}

TEST(NcclLibrary, NoneIsSaidWithAllThatWasTried) {
  ExpectRefused({"/nowhere/libnccl.so.2", "libnccl-of-nobody.so"}, StatusCode::kResource,
                {kNotLoaded, "/nowhere/libnccl.so.2", "libnccl-of-nobody.so", "pip install"});
  ExpectRefused({}, StatusCode::kResource, {kNotLoaded, "pip install"});
}

TEST(NcclLibrary, AnythingElseIsNotNccl) {
  ExpectRefused({"libm.so.6"}, StatusCode::kResource, {"libm.so.6", "is it NCCL?"});
}

TEST(NcclLibrary, OneThatIsTooOldIsNamed) {
  FakeNcclControls().version = 21705;
  ExpectRefused({HORA_FAKE_NCCL}, StatusCode::kInvalidArgument,
                {"NCCL 2.17.5", HORA_FAKE_NCCL, "too old", "2.18.0"});
  FakeNcclControls().version = 22809;
}

TEST(NcclLibrary, OneThatLacksAFunctionIsNamed) {
  ExpectRefused({HORA_PARTIAL_NCCL}, StatusCode::kResource,
                {"NCCL 2.28.9", HORA_PARTIAL_NCCL, "lacks ncclGetUniqueId"});
}

}  // namespace
}  // namespace hora
