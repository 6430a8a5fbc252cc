// Which program this is: release, source commit, and how it was built.
#pragma once

#include <string>

namespace palu {

extern const char* const kVersion;  // "0.1.0"
// Hash of the source commit, with "-modified" where tracked files differed; "unknown" outside git.
extern const char* const kCommit;
// "Release, GNU 12.2.0, CUDA OFF, sanitizers none".
extern const char* const kBuildOptions;

// What --version prints: program and release, then one line each of the other two.
std::string VersionText();

}  // namespace palu
