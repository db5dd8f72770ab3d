// Package buildinfo is what a binary knows of its own making. The linker sets
// the variables (see the Makefile); nothing writes them afterwards.
package buildinfo

import "runtime"

// Set by the linker with -X.
var (
	version   = "dev"
	revision  = ""
	buildDate = ""
)

// Info is the build, in the field names that Dragonfly v1 answers on /version.
type Info struct {
	Version   string `json:"Version"`
	Revision  string `json:"Revision"`
	BuildDate string `json:"BuildDate"`
	GoVersion string `json:"GoVersion"`
	Arch      string `json:"Arch"`
	OS        string `json:"OS"`
}

// Get gives the build of this binary.
func Get() Info {
	return Info{
		Version: version, Revision: revision, BuildDate: buildDate,
		GoVersion: runtime.Version(), Arch: runtime.GOARCH, OS: runtime.GOOS,
	}
}
