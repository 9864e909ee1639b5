#!/usr/bin/env bash
# Collect the libraries that a build needs beside a compiler and Python's packages, for a machine
# without a network, as a folder to give to CMake there: CMAKE_PREFIX_PATH=FOLDER/usr make test-gpu.
# For Debian and Ubuntu; both machines have the same kind of processor.
#
# Usage: tools/gather_libraries.sh FOLDER
set -euo pipefail

folder=${1:?FOLDER}
packages=(libgtest-dev libfmt-dev libexpected-dev libflatbuffers-dev flatbuffers-compiler libssl-dev
  libssl3)
# What these are linked with, of whatever version.
mapfile -t -O ${#packages[@]} packages < <(
  apt-cache depends flatbuffers-compiler libfmt-dev |
    sed -nE 's/^ *Depends: (lib(flatbuffers|fmt).*)/\1/p'
)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
downloads=$(mktemp -d)
trap 'rm -rf "$downloads"' EXIT
(cd "$downloads" && apt-get download "${packages[@]}")
for package in "$downloads"/*.deb; do dpkg-deb -x "$package" "$folder"; done

machine=$(gcc -dumpmachine)
libraries=usr/lib/$machine
rm -rf "$folder/usr/share/doc" "$folder/usr/share/man" "$folder/$libraries"/lib{ssl,crypto}.a
# flatc finds its library in the folder, wherever that is carried to.
if [ ! -e "$folder/usr/bin/flatc.real" ]; then
  mv "$folder/usr/bin/flatc" "$folder/usr/bin/flatc.real"
fi
cat >"$folder/usr/bin/flatc" <<END
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
LD_LIBRARY_PATH=\$here/../../$libraries exec "\$here/flatc.real" "\$@"
END
chmod +x "$folder/usr/bin/flatc"
# Headers that exist for each kind of processor, for compilers that look in one place only.
if [ -d "$folder/usr/include/$machine" ]; then
  cp -r "$folder/usr/include/$machine/." "$folder/usr/include/"
fi
du -sh "$folder"
