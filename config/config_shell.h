// The table of keys as manual pages and as completions for shells; written by palu-config-docs when
// the project is built, so that they cannot fall behind it.
#pragma once

#include <string>

namespace palu {

// palu-server(1) and palu_server.yaml(5), in man(7) macros.
std::string ServerManPage();
std::string ConfigManPage();

std::string BashCompletion();
std::string ZshCompletion();
std::string FishCompletion();

}  // namespace palu
