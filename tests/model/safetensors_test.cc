// Reading and writing safetensors; files that lie.
#include "engine/model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "engine/model/safetensors_writer.h"
#include "engine/status.h"
#include "tests/model/checkpoint_maker.h"

namespace palu::testing {
namespace {

std::string WithLength(const std::string& header, const std::string& data = {}) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> 8 * i & 0xff);
  return file + header + data;
}

// What opening a file of these bytes says.
std::string ErrorOf(const std::string& bytes) {
  try {
    ParseSafetensors(std::as_bytes(std::span(bytes)), "x.safetensors");
  } catch (const LoadError& error) {
    return error.what();
  }
  return "no error";
}

void ExpectError(const std::string& bytes, const std::vector<std::string>& parts) {
  const std::string error = ErrorOf(bytes);
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  EXPECT_NE(error.find("x.safetensors"), std::string::npos) << error;
  for (const std::string& part : parts) {
    EXPECT_NE(error.find(part), std::string::npos) << "\"" << part << "\" in: " << error;
  }
}

TEST(Safetensors, WritesWhatItReads) {
  TempDir directory;
  const std::string path = directory.File("model.safetensors");
  const std::vector<float> numbers = {1.5f, -2.0f, 0.0f, 3.25f, 1e-3f, 7.0f};
  const std::vector<std::byte> raw(3, std::byte{9});
  SafetensorsWriter writer(path, {{"b", "F32", {2, 3}}, {"a", "U8", {3}}, {"empty", "F16", {0, 4}}},
                           {{"made", "here"}});
  writer.Write(std::as_bytes(std::span(numbers)).first(10));
  writer.Write(std::as_bytes(std::span(numbers)).subspan(10));
  writer.Write(raw);
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.Finish();
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));

  const Safetensors file = Safetensors::OpenFile(path);
  EXPECT_EQ(file.metadata().at("made"), "here");
  ASSERT_EQ(file.entries().size(), 3u);
  const SafetensorsEntry& b = *file.Find("b");
  EXPECT_EQ(b.dtype, "F32");
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(b.data.data(), numbers.data(), 24), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data.data()) % 64, 0u);
  EXPECT_EQ(file.Find("a")->data.size(), 3u);
  EXPECT_EQ(file.Find("empty")->data.size(), 0u);
  EXPECT_EQ(file.Find("c"), nullptr);
}

TEST(Safetensors, UnfinishedFileLeavesNothing) {
  TempDir directory;
  { SafetensorsWriter writer(directory.File("x"), {{"a", "U8", {3}}}); }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(Safetensors, HeaderLength) {
  ExpectError("", {"found 0 bytes", "expected at least 8"});
  ExpectError("1234567", {"found 7 bytes"});
  ExpectError(std::string(8, '\xff'), {"header length", "18446744073709551615", "at most 0"});
  std::string longer = WithLength("{}");
  longer[0] = 100;
  ExpectError(longer, {"header length", "found 100 bytes", "at most 2"});
}

TEST(Safetensors, Json) {
  ExpectError(WithLength("{"), {"invalid JSON"});
  ExpectError(WithLength(""), {"invalid JSON"});
  ExpectError(WithLength("[1]"), {"expected an object"});
  ExpectError(WithLength(std::string("\xff\xfe{}")), {"invalid JSON"});
  ExpectError(WithLength(std::string(200000, '[')), {"nested deeper than 4"});
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  ExpectError(WithLength(deep), {"nested deeper than 4"});
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  ExpectError(WithLength("{\"a\":" + entry + ",\"a\":" + entry + "}", "x"), {"\"a\" occurs twice"});
  ExpectError(WithLength(R"({"__metadata__":{"n":1}})"), {"__metadata__.n", "a string"});
}

TEST(Safetensors, Entries) {
  const auto file = [](const std::string& entry, const std::string& data) {
    return WithLength("{\"t\":" + entry + "}", data);
  };
  ExpectError(file("3", ""), {"\"t\"", "expected an object"});
  ExpectError(file(R"({"shape":[1],"data_offsets":[0,1]})", "x"), {"t.dtype", "found nothing"});
  ExpectError(file(R"({"dtype":"Q4","shape":[1],"data_offsets":[0,1]})", "x"),
              {"t.dtype", "found \"Q4\"", "BF16"});
  ExpectError(file(R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})", "x"),
              {"t.shape", "[-1]", "integers from 0"});
  ExpectError(file(R"({"dtype":"U8","shape":[1.5],"data_offsets":[0,1]})", "x"), {"t.shape"});
  ExpectError(file(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", ""),
              {"t.shape", "64 bits"});
  ExpectError(file(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]})", "x"),
              {"t.shape"});
  ExpectError(file(R"({"dtype":"U8","shape":[1],"data_offsets":[0]})", "x"),
              {"t.data_offsets", "two numbers"});
  ExpectError(file(R"({"dtype":"U8","shape":[9],"data_offsets":[0,9]})", "x"),
              {"t.data_offsets", "[0,9]", "<= 1", "truncated"});
  ExpectError(file(R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})", "x"), {"t.data_offsets"});
  ExpectError(file(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", "1234"),
              {"tensor \"t\"", "found 4 bytes", "expected 8 bytes", "F32 [2]"});
}

TEST(Safetensors, Coverage) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  EXPECT_EQ(ErrorOf(WithLength(two("[4,8]", "[0,4]"), "12345678")), "no error");
  ExpectError(WithLength(two("[0,4]", "[2,6]"), "123456"), {"tensor \"b\"", "byte 2", "overlaps"});
  ExpectError(WithLength(two("[0,4]", "[0,4]"), "1234"), {"overlaps"});
  ExpectError(WithLength(two("[0,4]", "[6,10]"), "1234567890"), {"tensor \"b\"", "gap"});
  ExpectError(WithLength(two("[0,4]", "[4,8]"), "1234567890"),
              {"found 10 bytes after the header", "expected 8"});
}

TEST(Safetensors, Shards) {
  TempDir directory;
  Checkpoint checkpoint;
  for (const char* name : {"a", "b", "c", "d"}) {
    checkpoint.tensors[name] = TensorData::Of("F32", {1}, {static_cast<float>(name[0])});
  }
  checkpoint.Write(directory.path(), 3);
  const Safetensors files = Safetensors::OpenDirectory(directory.path());
  ASSERT_EQ(files.entries().size(), 4u);
  float number;
  std::memcpy(&number, files.Find("c")->data.data(), 4);
  EXPECT_EQ(number, 99.0f);

  const std::string index = directory.File("model.safetensors.index.json");
  const auto expect = [&](const std::string& text, const std::vector<std::string>& parts) {
    WriteText(index, text);
    try {
      Safetensors::OpenDirectory(directory.path());
      ADD_FAILURE() << "no error for " << text;
    } catch (const LoadError& error) {
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
  };
  const std::string shard = "model-1-of-3.safetensors";
  expect("{}", {"index.json", "weight_map", "found nothing"});
  expect(R"({"weight_map":{"a":7}})", {"weight_map.a", "found 7", "a string"});
  expect(R"({"weight_map":{"a":"../model-1-of-3.safetensors"}})", {"weight_map.a", "directory"});
  expect(R"({"weight_map":{"a":"none.safetensors"}})", {"none.safetensors", "cannot be opened"});
  expect(R"({"weight_map":{"z":")" + shard + "\"}}", {shard, "tensor \"z\"", "found nothing"});
  std::filesystem::remove(index);
  try {
    Safetensors::OpenDirectory(directory.path());
    ADD_FAILURE();
  } catch (const LoadError& error) {
    EXPECT_NE(std::string(error.what()).find("neither model.safetensors nor"), std::string::npos);
  }
}

}  // namespace
}  // namespace palu::testing
