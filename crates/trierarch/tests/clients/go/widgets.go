package main

import (
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

// A custom kind of two versions: v1 is stored, v2 writes the size as a text.

var (
	widgetsV1 = schema.GroupVersion{Group: "go.example.com", Version: "v1"}
	widgetsV2 = schema.GroupVersion{Group: "go.example.com", Version: "v2"}
)

type Widget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              WidgetSpec   `json:"spec"`
	Status            WidgetStatus `json:"status,omitempty"`
}

type WidgetSpec struct {
	Size  int64  `json:"size"`
	Color string `json:"color,omitempty"`
}

type WidgetStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

type WidgetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Widget `json:"items"`
}

func (*Widget) Hub() {}

func (w *Widget) DeepCopyObject() runtime.Object {
	copied := *w
	w.ObjectMeta.DeepCopyInto(&copied.ObjectMeta)
	copied.Status.Conditions = append([]metav1.Condition(nil), w.Status.Conditions...)
	return &copied
}

func (l *WidgetList) DeepCopyObject() runtime.Object {
	copied := &WidgetList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for index := range l.Items {
		copied.Items = append(copied.Items, *l.Items[index].DeepCopyObject().(*Widget))
	}
	return copied
}

// WidgetTwo is kind Widget in v2.
type WidgetTwo struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              WidgetTwoSpec `json:"spec"`
	Status            WidgetStatus  `json:"status,omitempty"`
}

type WidgetTwoSpec struct {
	Dimensions string `json:"dimensions"`
	Color      string `json:"color,omitempty"`
}

func (w *WidgetTwo) DeepCopyObject() runtime.Object {
	copied := *w
	w.ObjectMeta.DeepCopyInto(&copied.ObjectMeta)
	copied.Status.Conditions = append([]metav1.Condition(nil), w.Status.Conditions...)
	return &copied
}

func (w *WidgetTwo) ConvertTo(hub conversion.Hub) error {
	size, err := strconv.ParseInt(w.Spec.Dimensions, 10, 64)
	if err != nil {
		return fmt.Errorf("dimensions are no number: %w", err)
	}
	one := hub.(*Widget)
	one.ObjectMeta, one.Status = w.ObjectMeta, w.Status
	one.Spec = WidgetSpec{Size: size, Color: w.Spec.Color}
	return nil
}

func (w *WidgetTwo) ConvertFrom(hub conversion.Hub) error {
	one := hub.(*Widget)
	w.ObjectMeta, w.Status = one.ObjectMeta, one.Status
	w.Spec = WidgetTwoSpec{Dimensions: strconv.FormatInt(one.Spec.Size, 10), Color: one.Spec.Color}
	return nil
}

func addWidgets(scheme *runtime.Scheme) {
	scheme.AddKnownTypes(widgetsV1, &Widget{}, &WidgetList{})
	scheme.AddKnownTypeWithName(widgetsV2.WithKind("Widget"), &WidgetTwo{})
	metav1.AddToGroupVersion(scheme, widgetsV1)
	metav1.AddToGroupVersion(scheme, widgetsV2)
}
