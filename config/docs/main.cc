// palu-config-docs: prints one of the texts that are generated from the table of settings, for the
// build: man1, man5, bash, zsh, fish.
#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "config/config_shell.h"

int main(int argc, char** argv) {
  const std::map<std::string, std::function<std::string()>> texts = {
      {"man1", palu::ServerManPage},
      {"man5", palu::ConfigManPage},
      {"bash", palu::BashCompletion},
      {"zsh", palu::ZshCompletion},
      {"fish", palu::FishCompletion}};
  const auto found = argc == 2 ? texts.find(argv[1]) : texts.end();
  if (found == texts.end()) {
    std::fputs("usage: palu-config-docs man1|man5|bash|zsh|fish\n", stderr);
    return 2;
  }
  std::fputs(found->second().c_str(), stdout);
  return 0;
}
