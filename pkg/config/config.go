// Package config reads the settings of a command from four places: a flag
// comes before the environment, that before the configuration file, that
// before the default. Which settings there are is the caller's business.
//
// Every value goes through its flag's own parser, wherever it comes from, so
// that a wrong one is refused with the name of its place instead of being
// taken for zero.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// Set is the settings of one command. Settings are its flags; a flag may have
// a key in the configuration file.
type Set struct {
	// Flags holds the settings.
	Flags *pflag.FlagSet
	// EnvPrefix and the flag's name make the name of the variable:
	// PREFIX_FLAG_NAME.
	EnvPrefix string
	// Keys gives the dotted key in the file for a flag's name. Keys are
	// matched without regard to case.
	Keys map[string]string
	// Ignored are keys that are known and have no effect.
	Ignored []string
}

// Load reads the environment and the file into the flags that were not given
// on the command line. A file that is not there is no error unless required,
// and a variable that is empty counts as one that is not set. It returns what in the file had no effect.
func (s *Set) Load(file string, required bool) (unused []string, err error) {
	values, err := read(file, required)
	if err != nil {
		return nil, err
	}
	var errs []error
	s.Flags.VisitAll(func(f *pflag.Flag) {
		fromFile, inFile := values[strings.ToLower(s.Keys[f.Name])]
		delete(values, strings.ToLower(s.Keys[f.Name]))
		if f.Changed {
			return
		}
		place := s.EnvName(f.Name)
		value := os.Getenv(place)
		if value == "" {
			if !inFile {
				return
			}
			place, value = file+": "+s.Keys[f.Name], fromFile
		}
		if err := f.Value.Set(value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %q: %w", place, value, err))
		}
	})
	for key := range values {
		if !slices.ContainsFunc(s.Ignored, func(k string) bool { return under(key, strings.ToLower(k)) }) {
			unused = append(unused, key)
		}
	}
	slices.Sort(unused)
	return unused, errors.Join(errs...)
}

func under(key, parent string) bool {
	return key == parent || strings.HasPrefix(key, parent+".")
}

// EnvName is the name of the variable of a flag.
func (s *Set) EnvName(flag string) string {
	return s.EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// read gives the scalars of a YAML file by their dotted lower-case keys, those
// of a list with commas between.
func read(file string, required bool) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("reading the configuration %s: %w", file, err)
	}
	values := make(map[string]string)
	flatten("", tree, values)
	return values, nil
}

func flatten(prefix string, v any, into map[string]string) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for name, child := range v {
			key := strings.ToLower(name)
			if prefix != "" {
				key = prefix + "." + key
			}
			flatten(key, child, into)
		}
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = fmt.Sprint(item)
		}
		into[prefix] = strings.Join(items, ",")
	default:
		into[prefix] = fmt.Sprint(v)
	}
}

// YAML writes the settings that have a key, as a file that Load would read.
func (s *Set) YAML() (string, error) {
	tree := make(map[string]any)
	s.Flags.VisitAll(func(f *pflag.Flag) {
		key := s.Keys[f.Name]
		if key == "" {
			return
		}
		branch := tree
		parts := strings.Split(key, ".")
		for _, p := range parts[:len(parts)-1] {
			next, ok := branch[p].(map[string]any)
			if !ok {
				next = make(map[string]any)
				branch[p] = next
			}
			branch = next
		}
		var node yaml.Node
		node.SetString(f.Value.String())
		if t := f.Value.Type(); t == "int" || t == "bool" {
			node.Tag = "!!" + t
		}
		branch[parts[len(parts)-1]] = &node
	})
	text, err := yaml.Marshal(tree)
	if err != nil {
		return "", fmt.Errorf("writing the configuration: %w", err)
	}
	return string(text), nil
}
