package dfgetcodec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Decode reads one JSON object into m. It matches names without regard to case,
// ignores unknown names and nulls, and uses the last value of a repeated name. Data
// after the object and a value of the wrong type are errors. Decode returns io.EOF
// if there is no data.
func Decode(data []byte, m proto.Message) error {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return io.EOF
	}
	// The whole body is checked first, because a decoder that reads tokens does not
	// distinguish a truncated body from a complete one.
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil {
		return fmt.Errorf("body is not JSON: %w", err)
	}
	if string(data) == "null" {
		return nil
	}
	canonical, err := canonicalize(data, m.ProtoReflect().Descriptor())
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(canonical, m); err != nil {
		return fmt.Errorf("body: %s", cleanText(err))
	}
	return nil
}

// cleanText returns the text of a protojson error without its prefix. It also
// replaces the no-break spaces that protojson uses at random to make its texts
// unstable.
func cleanText(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimSpace(strings.TrimPrefix(text, "proto:"))
}

// canonicalize returns the object with the JSON names of the descriptor and without
// unknown names. data must be valid JSON.
func canonicalize(data json.RawMessage, md protoreflect.MessageDescriptor) (json.RawMessage, error) {
	if data[0] != '{' {
		return nil, errors.New("want an object")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("reading an object: %w", err)
	}
	values := make(map[string]json.RawMessage)
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("reading a name: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("reading %.80q: %w", key, err)
		}
		name, _ := key.(string)
		fd := findField(md, name)
		if fd == nil || string(value) == "null" {
			continue
		}
		if value, err = canonicalizeField(value, fd); err != nil {
			return nil, fmt.Errorf("%s: %w", fd.JSONName(), err)
		}
		values[fd.JSONName()] = value
	}
	return json.Marshal(values)
}

// canonicalizeField canonicalizes the value of a field, which may be a list.
func canonicalizeField(value json.RawMessage, fd protoreflect.FieldDescriptor) (json.RawMessage, error) {
	if !fd.IsList() {
		return canonicalizeValue(value, fd)
	}
	if value[0] != '[' {
		return nil, errors.New("want an array")
	}
	var items []json.RawMessage
	if err := json.Unmarshal(value, &items); err != nil {
		return nil, fmt.Errorf("reading an array: %w", err)
	}
	for i, item := range items {
		var err error
		if items[i], err = canonicalizeValue(item, fd); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return json.Marshal(items)
}

// canonicalizeValue also checks the type, because protojson would accept a number
// that is written as a string, which dfget's API does not allow.
func canonicalizeValue(value json.RawMessage, fd protoreflect.FieldDescriptor) (json.RawMessage, error) {
	first := value[0]
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return canonicalize(value, fd.Message())
	case protoreflect.StringKind, protoreflect.BytesKind:
		if first != '"' {
			return nil, errors.New("want a string")
		}
	case protoreflect.BoolKind:
		if first != 't' && first != 'f' {
			return nil, errors.New("want true or false")
		}
	default:
		if first != '-' && (first < '0' || first > '9') {
			return nil, errors.New("want a number")
		}
	}
	return value, nil
}

// findField returns the field with a JSON name, without regard to case, or nil. The
// messages are small, so a linear search is fast enough.
func findField(md protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	fields := md.Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); strings.EqualFold(fd.JSONName(), name) {
			return fd
		}
	}
	return nil
}
