#include "hora/engine/device_choice.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace hora {
namespace {

DeviceCard CardOf(int gpu, const std::string& wanted = "auto", int version = 22809) {
  return {.wanted = wanted,
          .uuid = "GPU-" + std::to_string(gpu),
          .nccl_version = version,
          .no_nccl = version == 0 ? "libnccl.so.2 is not installed" : "",
          .problem = {}};
}

Result<DeviceChoice> Choose(const std::vector<DeviceCard>& cards, std::vector<int> hosts = {},
                            const RankNames& names = {}, bool flat = false) {
  if (hosts.empty()) hosts = {static_cast<int>(cards.size())};
  return ChooseDeviceEngine(cards, names, HostLayout(std::move(hosts)), flat);
}

void ExpectStaged(const Result<DeviceChoice>& choice, const std::string& why) {
  ASSERT_TRUE(choice) << choice.error().ToString();
  EXPECT_EQ(choice->engine, DeviceEngine::kStaged);
  EXPECT_EQ(choice->why, why);
}

void ExpectRefused(const Result<DeviceChoice>& choice, StatusCode code, const std::string& text) {
  ASSERT_FALSE(choice);
  EXPECT_EQ(choice.error().code(), code);
  EXPECT_EQ(choice.error().message(), text);
}

TEST(DeviceChoice, TakesNcclWhereEveryRankHasAGpuOfItsOwn) {
  for (const char* wanted : {"auto", "nccl"}) {
    for (const int ranks : {1, 4}) {
      std::vector<DeviceCard> cards;
      for (int rank = 0; rank < ranks; ++rank) cards.push_back(CardOf(rank, wanted));
      const auto choice = Choose(cards);
      ASSERT_TRUE(choice);
      EXPECT_EQ(choice->engine, DeviceEngine::kNccl);
      EXPECT_EQ(choice->why, "");
    }
  }
}

TEST(DeviceChoice, StagesWhereItIsAskedTo) {
  ExpectStaged(Choose({CardOf(0, "staged"), CardOf(1, "staged", 0)}), "");
}

TEST(DeviceChoice, StagesWhereRanksShareAGpu) {
  ExpectStaged(Choose({CardOf(0), CardOf(1), CardOf(0)}), "ranks 0, 2 share a GPU");
}

TEST(DeviceChoice, StagesWhereNcclIsMissing) {
  ExpectStaged(Choose({CardOf(0), CardOf(1, "auto", 0)}),
               "rank 1 has no NCCL: libnccl.so.2 is not installed");
  ExpectStaged(Choose({CardOf(0, "auto", 0)}), "rank 0 has no NCCL: libnccl.so.2 is not installed");
}

TEST(DeviceChoice, StagesWhereVersionsDiffer) {
  ExpectStaged(Choose({CardOf(0), CardOf(1, "auto", 22703), CardOf(2)}),
               "the ranks have different versions: NCCL 2.28.9 on ranks 0, 2, NCCL 2.27.3 on "
               "rank 1");
}

TEST(DeviceChoice, GoesInLayersOverHosts) {
  const std::vector<DeviceCard> cards = {CardOf(0), CardOf(1), CardOf(2)};
  const auto choice = Choose(cards, {2, 1});
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->engine, DeviceEngine::kLayers);
  const auto flat = Choose(cards, {2, 1}, {}, /*flat=*/true);
  ASSERT_TRUE(flat);
  EXPECT_EQ(flat->engine, DeviceEngine::kStaged);
}

TEST(DeviceChoice, AsksForNcclAcrossHosts) {
  ExpectStaged(Choose({CardOf(0), CardOf(1)}, {1, 1}),
               "the ranks are on 2 hosts, between which NCCL neither authenticates nor encrypts; "
               "on a network of your own, HORA_GPU_BACKEND=nccl lets it");
  const auto choice = Choose({CardOf(0, "nccl"), CardOf(1, "nccl")}, {1, 1});
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->engine, DeviceEngine::kNccl);
}

TEST(DeviceChoice, RefusesWhereARankHasNoGpu) {
  std::vector<DeviceCard> cards = {CardOf(0), CardOf(1), CardOf(2)};
  cards[1].problem = "there is no driver; install one";
  ExpectRefused(Choose(cards), StatusCode::kResource,
                "rank 1 cannot work on GPU tensors: there is no driver; install one. Until that is "
                "mended, move the tensors to the CPU first, on all ranks");
  cards[2].problem = "another";
  ExpectRefused(Choose(cards), StatusCode::kResource,
                "rank 1 cannot work on GPU tensors (nor can rank 2): there is no driver; "
                "install one. Until that is mended, move the tensors to the CPU first, on all "
                "ranks");
}

TEST(DeviceChoice, RefusesWhatNcclCannotDoWhereItIsAskedFor) {
  ExpectRefused(Choose({CardOf(0, "nccl"), CardOf(0, "nccl")}), StatusCode::kResource,
                "HORA_GPU_BACKEND=nccl asks for NCCL, which cannot go: ranks 0-1 share a GPU. "
                "HORA_GPU_BACKEND=auto goes through the host's memory instead");
}

TEST(DeviceChoice, RefusesWhereRanksAskForDifferentBackends) {
  ExpectRefused(Choose({CardOf(0, "nccl"), CardOf(1), CardOf(2)}), StatusCode::kMismatch,
                "HORA_GPU_BACKEND differs between ranks: nccl on rank 0, auto on ranks 1-2; set "
                "it alike on all of them");
}

TEST(DeviceChoice, CallsRanksAsTheJobDoes) {
  ExpectStaged(Choose({CardOf(0), CardOf(0)}, {}, RankNames({3, 7})), "ranks 3, 7 share a GPU");
}

TEST(DeviceCard, TravelsAsText) {
  DeviceCard card = CardOf(3, "nccl", 0);
  card.problem = "one\ntwo";
  const std::string text = card.ToText();
  EXPECT_LE(text.size(), DeviceCard::kBytes);
  const DeviceCard read = DeviceCard::FromText(text).value();
  EXPECT_EQ(read.wanted, "nccl");
  EXPECT_EQ(read.uuid, "GPU-3");
  EXPECT_EQ(read.nccl_version, 0);
  EXPECT_EQ(read.no_nccl, "libnccl.so.2 is not installed");
  EXPECT_EQ(read.problem, "one two");
}

TEST(DeviceCard, IsCutToItsPlace) {
  const std::string large(5000, 'x');
  const DeviceCard card{
      .wanted = large, .uuid = large, .nccl_version = 1, .no_nccl = large, .problem = large};
  const std::string text = card.ToText();
  EXPECT_LE(text.size(), DeviceCard::kBytes);
  const DeviceCard read = DeviceCard::FromText(text).value();
  EXPECT_TRUE(read.problem.ends_with("…"));
  EXPECT_EQ(read.nccl_version, 1);
}

TEST(DeviceCard, IsNothingElse) {
  const std::string good = CardOf(0).ToText();
  EXPECT_FALSE(DeviceCard::FromText(""));
  EXPECT_FALSE(DeviceCard::FromText(good.substr(0, good.size() - 1)));
  EXPECT_FALSE(DeviceCard::FromText(good + "x"));
  EXPECT_FALSE(DeviceCard::FromText("auto\nGPU-0\n2.28\n\n\n"));
  EXPECT_FALSE(DeviceCard::FromText("auto\nGPU-0\n\n\n\n"));
}

}  // namespace
}  // namespace hora
