#include "server/text/chat_template.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "server/text/jinja/template.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using nlohmann::ordered_json;
using testing::FixturesDir;
using testing::SourceDir;

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::time_t ParseDate(const std::string& date) {
  std::tm local{};
  strptime(date.c_str(), "%Y-%m-%d", &local);
  local.tm_isdst = -1;
  return std::mktime(&local);
}

// What Python's Jinja says, for the error cases.
std::string ErrorOf(const std::string& source, const ordered_json& file, const ordered_json& one) {
  ordered_json variables = {{"messages", one["messages"]},
                            {"add_generation_prompt", one["add_generation_prompt"]},
                            {"bos_token", file["bos_token"]},
                            {"eos_token", file["eos_token"]}};
  if (!one["tools"].is_null()) variables["tools"] = one["tools"];
  const auto text = jinja::Template(source).Render(variables, 0);
  return text ? "no error" : text.error().kind + ": " + text.error().message;
}

void ExpectFixture(const std::filesystem::path& path) {
  const ordered_json file = ordered_json::parse(ReadText(path));
  const std::string source =
      ReadText(path.parent_path().parent_path() / file["template"].get<std::string>());
  const auto chat =
      ChatTemplate::Parse(source, path.filename(),
                          {{"bos_token", file["bos_token"]}, {"eos_token", file["eos_token"]}});
  ASSERT_FALSE(file["cases"].empty());
  for (const auto& one : file["cases"]) {
    ChatTemplateInput input;
    input.messages = one["messages"];
    input.tools = one["tools"];
    input.add_generation_prompt = one["add_generation_prompt"];
    input.now = ParseDate(file["now"]);
    const Result<std::string> text = chat->Render(input);
    if (one.contains("error")) {
      ASSERT_FALSE(text.has_value()) << path;
      EXPECT_EQ(ErrorOf(source, file, one), one["error"].get<std::string>()) << path;
      EXPECT_EQ(text.error().code, StatusCode::kInvalidArgument);
    } else {
      ASSERT_TRUE(text.has_value()) << path << ": " << text.error().message;
      EXPECT_EQ(*text, one["out"].get<std::string>()) << path;
    }
  }
}

TEST(ChatTemplate, FixturesMatchHuggingFace) {
  PALU_REQUIRE_FIXTURE("templates/expected");
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(FixturesDir() + "/templates/expected")) {
    ExpectFixture(entry.path());
    ++files;
  }
  EXPECT_GE(files, 14);
}

TEST(ChatTemplate, BundledModel) {
  const auto chat = ChatTemplate::Load(SourceDir() + "/models/classics-14m");
  ASSERT_NE(chat, nullptr);
  EXPECT_EQ(chat->special_tokens().at("bos_token"), "<|begin_of_text|>");
  ChatTemplateInput input;
  input.messages = {{{"role", "user"}, {"content", "Hello"}}};
  EXPECT_EQ(chat->Render(input).value(), "<|begin_of_text|>Hello\n\n");
}

TEST(ChatTemplate, RaisedMessageIsTheStatus) {
  const auto chat = ChatTemplate::Parse("{{ raise_exception('roles must alternate') }}", "test");
  const Result<std::string> text = chat->Render({});
  ASSERT_FALSE(text.has_value());
  EXPECT_EQ(text.error().message, "roles must alternate");
  EXPECT_EQ(text.error().param, "messages");
}

TEST(ChatTemplate, OtherErrorsNameTheLine) {
  const auto chat = ChatTemplate::Parse("\n\n{{ nobody.gave }}", "test");
  EXPECT_EQ(chat->Render({}).error().message,
            "chat template, line 3: UndefinedError: 'nobody' is undefined");
}

TEST(ChatTemplate, SyntaxErrorsNameFileAndLine) {
  try {
    ChatTemplate::Parse("fine\n{% if %}", "template.jinja");
    FAIL() << "expected a LoadError";
  } catch (const LoadError& error) {
    EXPECT_NE(std::string(error.what()).find("template.jinja"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("line 2"), std::string::npos);
  }
}

TEST(ChatTemplate, KwargsReachTheTemplate) {
  const auto chat =
      ChatTemplate::Parse("{{ thinking }}{{ bos_token }}", "test", {{"bos_token", "<s>"}});
  ChatTemplateInput input;
  input.kwargs = {{"thinking", false}, {"bos_token", "<b>"}};
  EXPECT_EQ(chat->Render(input).value(), "False<b>");
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  const auto chat = ChatTemplate::Parse(
      "{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}</>{% endfor %}", "test");
  ChatTemplateInput input;
  input.messages = {{{"role", "user"}, {"content", "Say hi"}},
                    {{"role", "assistant"}, {"content", " hi the "}}};
  input.add_generation_prompt = false;
  input.continue_final_message = true;
  EXPECT_EQ(chat->Render(input).value(), "<user>Say hi</><assistant>hi the");
  input.add_generation_prompt = true;
  EXPECT_EQ(chat->Render(input).error().param, "continue_final_message");
}

// A directory that goes away with the test.
class TemplateFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name) << text;
  }
  std::string Render(const ChatTemplateInput& input, const std::string& path = {}) const {
    return ChatTemplate::Load(directory_, path)->Render(input).value();
  }

  std::filesystem::path directory_ = std::filesystem::path(::testing::TempDir()) /
                                     (std::string("palu_templates_") + std::to_string(getpid()));
};

TEST_F(TemplateFiles, AreFoundInOrder) {
  EXPECT_EQ(ChatTemplate::Load(directory_), nullptr);
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "plain"},
                              {"name": "tool_use", "template": "tools{{ eos_token }}"}],
            "eos_token": {"content": "</s>"}})");
  ChatTemplateInput input;
  EXPECT_EQ(Render(input), "plain");
  input.tools = ordered_json::array({1});
  EXPECT_EQ(Render(input), "tools</s>");
  Write("chat_template.json", R"({"chat_template": "from json"})");
  EXPECT_EQ(Render(input), "from json");
  Write("chat_template.jinja", "from jinja");
  EXPECT_EQ(Render(input), "from jinja");
  Write("mine.jinja", "mine");
  EXPECT_EQ(Render(input, directory_ / "mine.jinja"), "mine");
  EXPECT_THROW(ChatTemplate::Load(directory_, directory_ / "absent.jinja"), LoadError);
}

}  // namespace
}  // namespace palu
