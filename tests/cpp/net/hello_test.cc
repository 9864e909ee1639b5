#include "hora/net/hello.h"

#include <cstring>

#include "gtest/gtest.h"

#include "net/connection.h"

namespace hora {
namespace {

NetworkHello FromListener() {
  return {.role = Handshake::Role::kListener, .job_id = "job-7", .nonce = {std::byte{1}}};
}

TEST(Hello, IsReadAsItWasWritten) {
  const NetworkHello ours{.job_id = "job-7"};
  const auto read = CheckHello(*EncodeHello(FromListener(), TestJob().key), ours, TestJob().key);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->version, kNetworkVersion);
  EXPECT_EQ(read->job_id, "job-7");
  EXPECT_EQ(read->nonce, FromListener().nonce);
}

// The bytes on the wire: members with other versions must find magic, version and tag there.
TEST(Hello, KeepsItsPlaces) {
  const HelloBytes bytes = *EncodeHello(FromListener(), TestJob().key);
  EXPECT_EQ(std::memcmp(bytes.data(), "horanet\0\1\0\0\0\1\1\5\0job-7\0", 22), 0);
  EXPECT_EQ(bytes[80], std::byte{1});
}

TEST(Hello, ShowsNoControlCharactersOfStrangers) {
  NetworkHello theirs = FromListener();
  theirs.job_id = "\x1b[2J\n\xff";
  const JobKey other;
  const auto read =
      CheckHello(*EncodeHello(theirs, other), NetworkHello{.job_id = "job-7"}, TestJob().key);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message().find("'?[2J?"
                                        "?'"),
            std::string::npos)
      << read.error().message();
}

TEST(Introduction, IsReadAsItWasWritten) {
  const Introduction said = DiallerOptions(Protection::kTls).mine;
  const auto read = DecodeIntroduction(EncodeIntroduction(said));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->rank, said.rank);
  EXPECT_EQ(read->generation, said.generation);
  EXPECT_EQ(read->purpose, said.purpose);
  EXPECT_TRUE(DecodeIntroduction(EncodeIntroduction({.rank = -1})));
}

TEST(Introduction, IsOfARankAndForAPurpose) {
  EXPECT_FALSE(DecodeIntroduction(EncodeIntroduction({.rank = -2})));
  EXPECT_FALSE(DecodeIntroduction(IntroductionBytes{}));
  IntroductionBytes unknown = EncodeIntroduction({.rank = 0});
  unknown[18] = std::byte{5};
  EXPECT_FALSE(DecodeIntroduction(unknown));
}

}  // namespace
}  // namespace hora
