package dfgetcodec

import (
	"bytes"
	"fmt"
	"io"
	"reflect"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"
)

// FormType is the content type of a request that NewForm decodes.
const FormType = "application/x-www-form-urlencoded"

// ContentType is the content type of every answer.
const ContentType = "application/json"

// marshaler implements grpc-gateway's runtime.Marshaler.
type marshaler struct {
	decode func([]byte, proto.Message) error
}

// NewJSON returns a marshaler that reads and writes JSON.
func NewJSON() runtime.Marshaler { return marshaler{Decode} }

// NewForm returns a marshaler that reads forms and writes JSON. It reads a body
// that starts with a brace as JSON, because curl sends JSON with the content type
// of a form unless another is given.
func NewForm() runtime.Marshaler { return marshaler{decodeForm} }

// ContentType implements runtime.Marshaler.
func (marshaler) ContentType(any) string { return ContentType }

// Marshal implements runtime.Marshaler.
func (marshaler) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encoding %T: not a message", v)
	}
	return Encode(m)
}

// Unmarshal implements runtime.Marshaler. v is a message, or a pointer to a
// message that may be nil.
func (c marshaler) Unmarshal(data []byte, v any) error {
	if m, ok := v.(proto.Message); ok {
		return c.decode(data, m)
	}
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Pointer {
		return fmt.Errorf("decoding into %T: not a message", v)
	}
	fresh := reflect.New(p.Elem().Type().Elem())
	m, ok := fresh.Interface().(proto.Message)
	if !ok {
		return fmt.Errorf("decoding into %T: not a message", v)
	}
	p.Elem().Set(fresh)
	return c.decode(data, m)
}

// NewDecoder implements runtime.Marshaler. The decoder reads until the end.
func (c marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("reading the body: %w", err)
		}
		return c.Unmarshal(data, v)
	})
}

// NewEncoder implements runtime.Marshaler.
func (c marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		b, err := c.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
}

func decodeForm(data []byte, m proto.Message) error {
	data = bytes.TrimSpace(data)
	if len(data) > 0 && data[0] == '{' {
		return Decode(data, m)
	}
	if err := NewFieldDecoder(m).Form(string(data), m); err != nil {
		return fmt.Errorf("form: %w", err)
	}
	return nil
}
